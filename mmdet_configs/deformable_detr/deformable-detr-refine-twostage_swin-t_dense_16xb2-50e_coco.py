_base_ = [
    "../_base_/detectors/deformable-detr-refine-twostage_50e.py",
    "../_base_/encoders/dense.py",
    "../_base_/backbones/swin-t.py",
]

model = dict(encoder=_base_.encoder, backbone=_base_.backbone, neck=_base_.neck)
