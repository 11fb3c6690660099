_base_ = ["../_base_/detectors/dino-4scale_36e.py", "../_base_/encoders/lite_key_aware_3p1x2.py"]

model = dict(decoder_attention="key_aware", encoder=_base_.encoder)
