# One update in 8 iterations: with 2 images each it is that of a batch of 16, as the papers' 8 GPUs
# have it, with their learning rate. Memory is that of 2 images.
accumulate = dict(accumulative_counts=8)
