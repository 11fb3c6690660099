# Training ends where box AP has not risen by 0.002 in five evaluations.
early_stopping = dict(
    type="EarlyStoppingHook",
    monitor="coco/bbox_mAP",
    rule="greater",
    min_delta=0.002,
    patience=5,
)
