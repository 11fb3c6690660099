# The learning rate follows the batch: MMEngine multiplies it by (GPUs x images on each) /
# base_batch_size. With accumulated gradients divide base_batch_size by their number: MMEngine does
# not count them, and 8 steps of 2 images need the learning rate of 16, that is no other one.
learning_rate = dict(enable=True, base_batch_size=16)
