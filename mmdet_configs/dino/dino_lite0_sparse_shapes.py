_base_ = [
    "../_base_/models/dino_lite0_shapes.py",
    "../_base_/encoders/sparse.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/shapes.py",
    "../_base_/token_metrics_small.py",
]

# The detector of dino_lite0_focus_shapes.py with Sparse DETR's encoder, and token metrics.
model = dict(encoder=_base_.encoder, test_cfg=dict(report_tokens=True))
test_evaluator = [_base_.test_evaluator, *_base_.token_metrics]
