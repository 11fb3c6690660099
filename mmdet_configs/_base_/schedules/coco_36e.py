# 36 epochs, the learning rate a tenth after 30. A detector takes it key by key: it has its own.
schedule = dict(
    max_epochs=36,
    train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1),
    param_scheduler=[
        dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[30], gamma=0.1)
    ],
)
