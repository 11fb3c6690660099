# Every token is refined in every layer (Deformable DETR, DINO): the baseline.
encoder = dict(type="DenseEncoder")
