# Mixed precision. bfloat16 wants no loss scaling; GPUs have it from Ampere (sm_80) on, and it runs
# on a CPU, too. An older GPU takes amp_float16.
amp = dict(type="BFloat16OptimWrapper")
amp_float16 = dict(type="AmpOptimWrapper", loss_scale="dynamic")
