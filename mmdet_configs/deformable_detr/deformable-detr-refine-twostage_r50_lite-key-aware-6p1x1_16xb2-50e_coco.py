_base_ = [
    "../_base_/detectors/deformable-detr-refine-twostage_50e.py",
    "../_base_/encoders/lite_key_aware_6p1x1.py",
]

model = dict(
    encoder=_base_.encoder,
    decoder_attention="key_aware",
    decoder_key_aware=_base_.encoder.key_aware,
)
