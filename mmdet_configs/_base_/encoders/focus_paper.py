_base_ = "./focus.py"

# Focus-DETR as the paper describes it, where that differs from the released code.
encoder = dict(
    values="updated",
    object_score="probability",
    selector=dict(count="image", intervals="overlapping"),
)
