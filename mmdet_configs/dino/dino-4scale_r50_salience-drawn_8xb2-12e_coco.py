_base_ = ["../_base_/detectors/dino-4scale_12e.py", "../_base_/encoders/salience_drawn.py"]

model = dict(encoder=_base_.encoder)
