_base_ = ["../_base_/models/h-deformable-detr_r50.py", "../_base_/encoders/focus.py"]

model = dict(encoder=_base_.encoder)
