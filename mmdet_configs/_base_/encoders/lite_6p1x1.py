_base_ = "./lite.py"

# One block of six layers: the finest level is refined once.
encoder = dict(schedule="H3L1-(6+1)x1")
