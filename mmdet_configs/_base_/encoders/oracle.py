# Tokens inside the annotated boxes: the ceiling of any comparison, for evaluation only.
encoder = dict(
    type="SparseDETREncoder",
    auxiliary_heads=True,
    selector=dict(type="OracleSelector", keep_ratio=0.3, intervals="non_overlapping"),
)
