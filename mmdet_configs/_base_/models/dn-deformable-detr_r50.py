_base_ = "mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py"

# DN-Deformable-DETR: learned anchors, denoising training.
custom_imports = dict(imports=["sparse_encoders"])
model = dict(
    type="sparse_encoders.DNDETR",
    neck=dict(bias=True),  # the released necks keep it
    encoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=2048, ffn_drop=0.0))),
    decoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(dropout=0.0),
            cross_attn_cfg=dict(dropout=0.0),
            ffn_cfg=dict(feedforward_channels=2048, ffn_drop=0.0),
        )
    ),
    bbox_head=dict(type="DNDETRHead", loss_cls=dict(loss_weight=1.0)),
    dn_cfg=dict(
        label_noise_scale=0.2,
        box_noise_scale=0.4,
        group_cfg=dict(dynamic=False, num_groups=5),
    ),
    test_cfg=dict(max_per_img=300),
)
