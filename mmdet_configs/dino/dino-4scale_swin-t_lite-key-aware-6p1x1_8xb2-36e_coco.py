_base_ = [
    "../_base_/detectors/dino-4scale_36e.py",
    "../_base_/encoders/lite_key_aware_6p1x1.py",
    "../_base_/backbones/swin-t.py",
]

model = dict(
    decoder_attention="key_aware",
    encoder=_base_.encoder,
    backbone=_base_.backbone,
    neck=_base_.neck,
)
