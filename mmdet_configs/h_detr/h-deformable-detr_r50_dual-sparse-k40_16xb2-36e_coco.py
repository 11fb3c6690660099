_base_ = ["../_base_/detectors/h-deformable-detr_36e.py", "../_base_/encoders/dual_sparse_k40.py"]

model = dict(encoder=_base_.encoder)
