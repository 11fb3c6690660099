_base_ = ["../_base_/detectors/sparse-detr_50e.py", "../_base_/encoders/dual_sparse.py"]

model = dict(encoder=_base_.encoder)
