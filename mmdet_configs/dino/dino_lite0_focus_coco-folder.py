_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/focus_small.py",
    "../_base_/datasets/coco_folder.py",
    "../_base_/schedules/short_20e.py",
]

# Your data set: set its paths here, in a child config, or by --cfg-options coco_folder.root=...
coco_folder = dict(scale=(320, 240))  # small enough for a CPU; objects of 10 to 200 pixels
model = dict(encoder=_base_.encoder)
