_base_ = "../default_runtime.py"

# Minutes rather than days: a pretrained backbone, a large learning rate after a
# short warm-up, cosine decay, and evaluation of the weights' moving average.
max_epochs = 8
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="FusedAdamW", lr=4e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.5, norm_type=2),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.25)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.02,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.002, gamma=100, priority=49)
]
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=1, max_keep_ckpts=1),
)
