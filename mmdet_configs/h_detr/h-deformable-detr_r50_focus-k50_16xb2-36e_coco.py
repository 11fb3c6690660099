_base_ = ["../_base_/detectors/h-deformable-detr_36e.py", "../_base_/encoders/focus_k50.py"]

model = dict(encoder=_base_.encoder)
