_base_ = [
    "mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py",
    "../_base_/encoders/sparse.py",
]

# Sparse DETR: the content of a query is its proposal's memory, and the first stage learns classes.
custom_imports = dict(imports=["sparse_encoders"])
model = dict(
    type="sparse_encoders.DeformableDETR",
    efficient_query_init=True,
    class_specific_first_stage=True,
    encoder=_base_.encoder,
)
