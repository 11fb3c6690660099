# Salience DETR's encoder and selector as released. What its models have around them (a RepVGG
# neck on the memory, NMS among proposals, an IoU-weighted classification loss) is not part of it.
encoder = dict(
    type="DualAttentionEncoder",
    values="input",
    object_score="logit",
    num_object_tokens=300,
    background_embedding="released",
    selector=dict(
        type="SalienceTokenSelector",
        keep_ratio=None,  # the quotas below as they are; a number scales them
        level_ratios=(0.4, 0.8, 1.0, 1.0),
        layer_ratios=None,  # 1, 0.8, 0.6, 0.6, 0.4, 0.2 in six layers
        count="batch",  # in training; at test time every image counts for itself
        intervals="non_overlapping",
        loss_weight=2.0,
    ),
)
