_base_ = ["../_base_/detectors/h-deformable-detr_12e.py", "../_base_/encoders/dense.py"]

model = dict(encoder=_base_.encoder)
