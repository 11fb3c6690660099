_base_ = "mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py"

# H-Deformable-DETR: a second group of queries, matched to each box six times, in training.
custom_imports = dict(imports=["sparse_encoders"])
model = dict(
    type="sparse_encoders.HDETR",
    num_queries_one2many=1500,
    mixed_selection=True,
    look_forward_twice=True,
    neck=dict(bias=True),  # the released necks keep it
    encoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=2048, ffn_drop=0.0))),
    decoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(dropout=0.0),
            cross_attn_cfg=dict(dropout=0.0),
            ffn_cfg=dict(feedforward_channels=2048, ffn_drop=0.0),
        )
    ),
    bbox_head=dict(type="HDETRHead", k_one2many=6, one2many_weight=1.0),
    test_cfg=dict(max_per_img=300),
)
