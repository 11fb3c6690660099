# Sparse DETR, under the name it had first.
_base_ = "../sparse_detr/sparse-detr_r50_sparse_16xb2-50e_coco.py"
