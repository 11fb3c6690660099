# 24 epochs, the learning rate a tenth after 20. A detector takes it key by key: it has its own.
schedule = dict(
    max_epochs=24,
    train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=24, val_interval=1),
    param_scheduler=[
        dict(type="MultiStepLR", begin=0, end=24, by_epoch=True, milestones=[20], gamma=0.1)
    ],
)
