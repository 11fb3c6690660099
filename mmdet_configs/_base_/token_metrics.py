# What the encoder keeps, beside AP: Corr and foreground recall. A config that takes this sets
#   model = dict(test_cfg=dict(report_tokens=True))
#   test_evaluator = [_base_.test_evaluator, *_base_.token_metrics]
token_metrics = [
    dict(type="DecoderCorrelation", top=0.1),
    dict(type="ForegroundRecall", intervals="non_overlapping"),
]
