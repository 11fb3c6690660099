_base_ = ["../_base_/detectors/deformable-detr-refine_50e.py", "../_base_/encoders/lite_6p1x1.py"]

model = dict(encoder=_base_.encoder)
