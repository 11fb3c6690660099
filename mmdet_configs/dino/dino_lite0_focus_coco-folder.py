_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/focus.py",
    "../_base_/datasets/coco_folder.py",
    "../_base_/schedules/short.py",
]

# Your data set, in five lines of a child config or by --cfg-options coco_folder.root=...
model = dict(encoder=_base_.encoder)
