_base_ = "./dino_lite0_small.py"

# For the drawn set. At most 8 objects a picture: fewer queries do. Simple pictures: the finest
# features need no training, and the backward pass of their large maps is saved. In a few hundred
# steps boxes are learned before it is learned which of several queries on an object speaks for it:
# classes count four times as much in the loss, twice in the matching.
model = dict(
    num_queries=60,
    backbone=dict(frozen_stages=2),
    bbox_head=dict(num_classes=5, loss_cls=dict(loss_weight=4.0)),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=32)),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type="FocalLossCost", weight=4.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=60),
)
