_base_ = "./deformable_lite0_sparse_shapes.py"

# Sparse DETR's detector: two-stage, efficient query init, class-specific first stage.
model = dict(as_two_stage=True, efficient_query_init=True, class_specific_first_stage=True)
