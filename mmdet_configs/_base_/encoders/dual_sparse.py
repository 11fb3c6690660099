# Sparse DETR's selector under Focus-DETR's dual attention (Focus-DETR's supplement, Table 5).
encoder = dict(
    type="DualAttentionEncoder",
    values="input",
    object_score="logit",
    num_object_tokens=300,
    selector=dict(type="DecoderAttentionSelector", keep_ratio=0.3, loss_weight=1.0),
)
