_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"

custom_imports = dict(imports=["sparse_encoders"])
model = dict(type="sparse_encoders.DINO")
