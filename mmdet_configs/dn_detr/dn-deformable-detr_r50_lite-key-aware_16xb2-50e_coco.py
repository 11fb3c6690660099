_base_ = ["../_base_/models/dn-deformable-detr_r50.py", "../_base_/encoders/lite_key_aware.py"]

model = dict(decoder_attention="key_aware", encoder=_base_.encoder)
