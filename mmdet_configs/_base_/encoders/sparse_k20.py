_base_ = "./sparse.py"

encoder = dict(selector=dict(keep_ratio=0.2))
