# RT-DETR's hybrid encoder: replaces the deformable one instead of pruning it. An inherited number
# of layers does not matter.
encoder = dict(
    type="HybridEncoder",
    feedforward_channels=1024,
    position="rows",  # a token's own; 'released' for weights of RT-DETR
    # as released, for large batches; with two images on a GPU dict(type="SyncBN"), or no batch
    # statistics at all: dict(type="GN", num_groups=32)
    norm_cfg=dict(type="BN"),
)
