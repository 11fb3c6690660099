_base_ = ["../_base_/detectors/dino-4scale_36e.py", "../_base_/encoders/dual_sparse.py"]

model = dict(encoder=_base_.encoder)
