_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/lite_focus_small.py",
    "../_base_/datasets/coco_folder.py",
    "../_base_/schedules/short_20e.py",
]

# The detector of dino_lite0_focus_coco-folder.py with another encoder; the data set is named alike.
model = dict(encoder=_base_.encoder)
