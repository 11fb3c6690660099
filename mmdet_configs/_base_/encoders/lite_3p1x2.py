_base_ = "./lite.py"

# Two blocks of three layers.
encoder = dict(schedule="H3L1-(3+1)x2")
