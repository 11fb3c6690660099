_base_ = [
    "../_base_/models/dino_lite0_shapes.py",
    "../_base_/encoders/salience_small.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/shapes.py",
]

# The detector of dino_lite0_focus_shapes.py with another encoder.
model = dict(encoder=_base_.encoder)
