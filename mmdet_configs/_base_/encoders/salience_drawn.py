_base_ = "./salience.py"

# One checkpoint for many keep ratios: each training step keeps a share of the tokens that is drawn
# from this range (PnP-DETR's), testing keeps the released quotas, or test_cfg.keep_ratio.
encoder = dict(selector=dict(train_keep_ratio=(1 / 3, 0.8)))
