# Sparse DETR: one selection for all layers, taught by the decoder's cross-attention.
encoder = dict(
    type="SparseDETREncoder",
    auxiliary_heads=True,
    selector=dict(
        type="DecoderAttentionSelector",
        keep_ratio=0.3,  # the paper has 0.1, 0.2, 0.3, 0.4 and 0.5
        loss_weight=1.0,
    ),
)
