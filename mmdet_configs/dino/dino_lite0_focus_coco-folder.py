_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/focus.py",
    "../_base_/datasets/coco_folder.py",
    "../_base_/schedules/short.py",
]

# Your data set: five lines in a child config, or --cfg-options coco_folder.root=...
model = dict(encoder=_base_.encoder)
train_cfg = dict(val_interval=1)
