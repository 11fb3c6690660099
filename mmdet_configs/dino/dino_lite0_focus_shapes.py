_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/focus_small.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/short.py",
]

model = dict(encoder=_base_.encoder)
