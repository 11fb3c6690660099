_base_ = "./lite.py"

# Only the two coarsest levels in every layer.
encoder = dict(schedule="H2L2-(2+1)x3")
