_base_ = ["../_base_/detectors/deformable-detr-refine_50e.py", "../_base_/encoders/lite_h2l2.py"]

model = dict(encoder=_base_.encoder)
