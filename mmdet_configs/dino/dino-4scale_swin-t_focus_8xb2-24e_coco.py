_base_ = [
    "../_base_/detectors/dino-4scale_24e.py",
    "../_base_/encoders/focus.py",
    "../_base_/backbones/swin-t.py",
]

model = dict(encoder=_base_.encoder, backbone=_base_.backbone, neck=_base_.neck)
