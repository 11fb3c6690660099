_base_ = ["../_base_/detectors/sparse-detr_50e.py", "../_base_/encoders/sparse_k50.py"]

model = dict(encoder=_base_.encoder)
