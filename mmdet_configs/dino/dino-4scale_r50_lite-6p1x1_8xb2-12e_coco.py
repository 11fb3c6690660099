_base_ = ["mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", "../_base_/encoders/lite_6p1x1.py"]

custom_imports = dict(imports=["sparse_encoders"])
model = dict(type="sparse_encoders.DINO", encoder=_base_.encoder)
