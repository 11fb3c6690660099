_base_ = "./lite.py"

# Focus-DETR's selection in the layers that refine all levels.
encoder = dict(
    selector=dict(
        type="FocusTokenSelector",
        keep_ratio=0.3,
        count="batch",  # in training; at test time every image counts for itself
        intervals="non_overlapping",
        modulation="top_down",
        loss_weight=1.5,
    )
)
