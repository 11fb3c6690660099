_base_ = ["../_base_/detectors/dn-deformable-detr_50e.py", "../_base_/encoders/focus_k20.py"]

model = dict(encoder=_base_.encoder)
