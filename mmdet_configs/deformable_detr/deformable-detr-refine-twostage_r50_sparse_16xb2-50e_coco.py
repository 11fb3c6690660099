_base_ = [
    "../_base_/detectors/deformable-detr-refine-twostage_50e.py",
    "../_base_/encoders/sparse.py",
]

model = dict(encoder=_base_.encoder)
