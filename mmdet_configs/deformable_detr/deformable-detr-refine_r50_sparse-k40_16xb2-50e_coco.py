_base_ = ["../_base_/detectors/deformable-detr-refine_50e.py", "../_base_/encoders/sparse_k40.py"]

model = dict(encoder=_base_.encoder)
