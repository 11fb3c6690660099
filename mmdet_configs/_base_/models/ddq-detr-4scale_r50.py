_base_ = "mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py"

custom_imports = dict(imports=["sparse_encoders"])
model = dict(type="sparse_encoders.DDQDETR")
