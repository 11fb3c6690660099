_base_ = "./oracle.py"

# The intervals of focus_small.py.
encoder = dict(selector=dict(intervals=((-1, 16), (16, 32), (32, 64), (64, 1e4))))
