# Evaluated and saved is a moving average of the weights, with the batch norms' statistics. Each
# iteration counts, accumulated or not.
ema = dict(
    type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49
)
