# Focus-DETR's selector, taught by boxes, under Sparse DETR's encoder.
encoder = dict(
    type="SparseDETREncoder",
    auxiliary_heads=True,
    selector=dict(
        type="FocusTokenSelector",
        keep_ratio=0.3,  # average over the layers; they cascade by the supplement's Table 1
        intervals="non_overlapping",
        loss_weight=1.5,
    ),
)
