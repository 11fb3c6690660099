_base_ = "./focus.py"

encoder = dict(selector=dict(keep_ratio=0.5))
