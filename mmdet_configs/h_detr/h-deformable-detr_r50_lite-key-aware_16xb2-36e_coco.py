_base_ = ["../_base_/detectors/h-deformable-detr_36e.py", "../_base_/encoders/lite_key_aware.py"]

model = dict(
    encoder=_base_.encoder,
    decoder_attention="key_aware",
    decoder_key_aware=_base_.encoder.key_aware,
)
