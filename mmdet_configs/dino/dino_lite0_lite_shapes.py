_base_ = [
    "../_base_/models/dino_lite0_small.py",
    "../_base_/encoders/lite_small.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/short.py",
]

# At most 8 objects a picture: fewer queries do.
model = dict(
    num_queries=60,
    encoder=_base_.encoder,
    dn_cfg=dict(group_cfg=dict(num_dn_queries=32)),
    test_cfg=dict(max_per_img=60),
)
