_base_ = "./dino_lite0_small.py"

# A small one-stage Deformable DETR on the same backbone: no denoising, otherwise the same settings.
model = dict(_delete_=True, **{k: v for k, v in _base_.model.items() if k != "dn_cfg"})
model.update(
    type="sparse_encoders.DeformableDETR",
    as_two_stage=False,
    bbox_head=dict(_base_.model.bbox_head, type="DeformableDETRHead"),
)
