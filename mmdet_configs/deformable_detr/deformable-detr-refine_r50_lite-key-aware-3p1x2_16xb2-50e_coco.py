_base_ = [
    "../_base_/detectors/deformable-detr-refine_50e.py",
    "../_base_/encoders/lite_key_aware_3p1x2.py",
]

model = dict(decoder_attention="key_aware", encoder=_base_.encoder)
