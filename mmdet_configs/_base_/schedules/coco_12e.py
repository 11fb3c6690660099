# 12 epochs, the learning rate a tenth after 11. A detector takes it key by key: it has its own.
schedule = dict(
    max_epochs=12,
    train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1),
    param_scheduler=[
        dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[11], gamma=0.1)
    ],
)
