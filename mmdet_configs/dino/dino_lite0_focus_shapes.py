_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/focus_small.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/short.py",
]

# At most 8 objects a picture: fewer queries do. Simple pictures: the finest features need no
# training, and the backward pass of their large maps is saved.
model = dict(
    num_queries=60,
    backbone=dict(frozen_stages=2),
    encoder=_base_.encoder,
    dn_cfg=dict(group_cfg=dict(num_dn_queries=32)),
    test_cfg=dict(max_per_img=60),
)
