_base_ = ["../_base_/models/ddq-detr-4scale_r50.py", "../_base_/encoders/focus.py"]

model = dict(encoder=_base_.encoder)
