_base_ = "./coco_folder.py"

# The set that tools/make_shapes_dataset.py draws: pictures of four shapes.
coco_folder = dict(root="data/shapes", scale=(160, 160))
train_dataloader = dict(
    batch_size=3, num_workers=1, batch_sampler=dict(type="SameShapeBatchSampler")
)
val_dataloader = dict(batch_size=20, num_workers=1)
test_dataloader = dict(batch_size=20, num_workers=1)
