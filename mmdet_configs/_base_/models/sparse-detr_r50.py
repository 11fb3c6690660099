_base_ = "./deformable-detr-refine-twostage_r50.py"

# Sparse DETR's detector: the content of a query is its proposal's memory (efficient query init),
# and the first stage learns classes.
model = dict(efficient_query_init=True, class_specific_first_stage=True)
