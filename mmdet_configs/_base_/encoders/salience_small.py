_base_ = "./salience.py"

# For pictures five times smaller than COCO's: so are the intervals of the targets (pixels)
# and the number of object tokens.
encoder = dict(
    num_object_tokens=60, selector=dict(intervals=((-1, 16), (16, 32), (32, 64), (64, 1e4)))
)
