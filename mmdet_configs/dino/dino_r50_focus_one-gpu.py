_base_ = [
    "../_base_/detectors/dino-4scale_12e.py",
    "../_base_/encoders/focus.py",
    "../_base_/one_gpu/accumulate.py",
    "../_base_/one_gpu/amp.py",
    "../_base_/one_gpu/best_checkpoint.py",
    "../_base_/one_gpu/checkpointing.py",
    "../_base_/one_gpu/early_stopping.py",
    "../_base_/one_gpu/ema.py",
    "../_base_/one_gpu/warmup.py",
]

# Full-size DINO on one GPU with every measure of ../_base_/one_gpu; leave out what yours does not
# need (docs/one_gpu.md).
model = dict(
    backbone=_base_.checkpointing.backbone,
    encoder=dict(**_base_.encoder, **_base_.checkpointing.encoder),
)
optim_wrapper = dict(**_base_.amp, **_base_.accumulate)
param_scheduler = [_base_.warmup, *_base_.schedule.param_scheduler]
default_hooks = dict(checkpoint=_base_.best_checkpoint)
custom_hooks = [_base_.ema, _base_.early_stopping]
