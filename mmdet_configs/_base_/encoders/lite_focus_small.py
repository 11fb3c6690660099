# Both, for pictures five times smaller than COCO's and encoders of two layers.
encoder = dict(
    type="LiteDETREncoder",
    blocks=1,
    small_low_level_ffn=True,
    selector=dict(
        type="FocusTokenSelector",
        keep_ratio=0.3,
        intervals=((-1, 16), (16, 32), (32, 64), (64, 1e4)),
        loss_weight=1.5,
    ),
)
