# Lite DETR: coarse levels in every layer, the finest in the last of each block of two.
encoder = dict(
    type="LiteDETREncoder",
    schedule="H3L1-(2+1)x3",
    small_low_level_ffn=True,  # as in the released models
)
