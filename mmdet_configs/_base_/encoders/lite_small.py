# For encoders of two layers: one block.
encoder = dict(type="LiteDETREncoder", blocks=1, small_low_level_ffn=True)
