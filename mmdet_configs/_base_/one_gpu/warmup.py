# The learning rate rises during the first iterations: put it in front of the schedule,
#   param_scheduler = [_base_.warmup, *_base_.param_scheduler]
# Iterations count, not updates: with 8 accumulated ones these are 250 updates.
warmup = dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=2000)
