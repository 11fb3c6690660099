# 50 epochs, the learning rate a tenth after 40. A detector takes it key by key: it has its own.
schedule = dict(
    max_epochs=50,
    train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=50, val_interval=1),
    param_scheduler=[
        dict(type="MultiStepLR", begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)
    ],
)
