_base_ = "./lite_key_aware.py"

encoder = dict(schedule="H3L1-(6+1)x1")
