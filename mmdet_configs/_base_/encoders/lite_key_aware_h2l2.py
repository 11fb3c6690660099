_base_ = "./lite_key_aware.py"

encoder = dict(schedule="H2L2-(2+1)x3")
