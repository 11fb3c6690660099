_base_ = ["../_base_/detectors/dino-4scale_36e.py", "../_base_/encoders/dense.py"]

model = dict(encoder=_base_.encoder)
