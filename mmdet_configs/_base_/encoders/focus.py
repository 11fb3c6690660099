# Focus-DETR as released: what trained weights expect.
encoder = dict(
    type="DualAttentionEncoder",
    values="input",
    object_score="logit",
    num_object_tokens=300,
    selector=dict(
        type="FocusTokenSelector",
        keep_ratio=0.3,  # average over the layers; they cascade by the supplement's Table 1
        count="batch",  # in training; at test time every image counts for itself
        intervals="non_overlapping",
        modulation="top_down",
        loss_weight=1.5,
    ),
)
