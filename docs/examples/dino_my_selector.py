"""DINO with the selector of my_selector.py."""

# python -m mim train mmdet docs/examples/dino_my_selector.py, with docs/examples in PYTHONPATH
_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
custom_imports = dict(imports=["sparse_encoders", "my_selector"])
model = dict(
    type="sparse_encoders.DINO",
    encoder=dict(
        type="DualAttentionEncoder",
        selector=dict(type="InsideBoxSelector", keep_ratio=0.3, cascade=True),
    ),
)
