_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/focus_small.py",
    "../_base_/datasets/coco_folder.py",
    "../_base_/schedules/short_20e.py",
]

# For a data set that a config of your own names: see ../_base_/datasets/coco_folder.py. Images are
# resized to fit 320 x 240, small enough for a CPU; objects of 10 to 200 pixels.
model = dict(encoder=_base_.encoder)
