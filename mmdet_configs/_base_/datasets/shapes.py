_base_ = "./coco_folder.py"

from sparse_encoders.datasets import resize_images

# The set that tools/make_shapes_dataset.py draws.
resize_images(_base_, 160)
data_root = "data/shapes/"
shapes = dict(
    data_root=data_root,
    metainfo=dict(classes=("circle", "square", "triangle", "ring", "cross")),
)
train_dataloader = dict(
    batch_size=3,
    num_workers=1,
    batch_sampler=dict(type="SameShapeBatchSampler"),
    dataset=shapes,
)
val_dataloader = dict(batch_size=20, num_workers=1, dataset=shapes)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + "val.json")
test_evaluator = val_evaluator
