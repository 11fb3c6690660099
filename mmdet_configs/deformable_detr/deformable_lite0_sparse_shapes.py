_base_ = [
    "../_base_/models/deformable_lite0_small.py",
    "../_base_/encoders/sparse.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/short.py",
    "../_base_/token_metrics_small.py",
]

# One-stage; at most 8 objects a picture: fewer queries do.
model = dict(
    num_queries=60,
    encoder=_base_.encoder,
    bbox_head=dict(num_classes=5),
    test_cfg=dict(max_per_img=60, report_tokens=True),
)
test_evaluator = [_base_.test_evaluator, *_base_.token_metrics]
