_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/sparse.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/short.py",
    "../_base_/token_metrics_small.py",
]

# The same detector as dino_lite0_focus_shapes.py, with Sparse DETR's encoder and token metrics.
model = dict(
    num_queries=60,
    encoder=_base_.encoder,
    dn_cfg=dict(group_cfg=dict(num_dn_queries=32)),
    test_cfg=dict(max_per_img=60, report_tokens=True),
)
test_evaluator = [_base_.test_evaluator, *_base_.token_metrics]
