_base_ = "./token_metrics.py"

# The intervals of encoders/focus_small.py.
token_metrics = [
    dict(type="DecoderCorrelation", top=0.1),
    dict(type="ForegroundRecall", intervals=((-1, 16), (16, 32), (32, 64), (64, 1e4))),
]
