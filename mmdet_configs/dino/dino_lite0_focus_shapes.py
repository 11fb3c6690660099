_base_ = [
    "../_base_/models/dino_lite0_shapes.py",
    "../_base_/encoders/focus_small.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/shapes.py",
]

model = dict(encoder=_base_.encoder)
