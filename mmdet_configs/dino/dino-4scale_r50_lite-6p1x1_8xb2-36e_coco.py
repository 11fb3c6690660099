_base_ = ["../_base_/detectors/dino-4scale_36e.py", "../_base_/encoders/lite_6p1x1.py"]

model = dict(encoder=_base_.encoder)
