_base_ = ["../_base_/detectors/dino-4scale_12e.py", "../_base_/encoders/lite_key_aware.py"]

model = dict(decoder_attention="key_aware", encoder=_base_.encoder)
