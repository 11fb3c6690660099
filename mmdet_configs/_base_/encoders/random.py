# Tokens at random: the floor of any comparison.
encoder = dict(
    type="SparseDETREncoder",
    auxiliary_heads=True,
    selector=dict(type="RandomSelector", keep_ratio=0.3, seed=0),
)
