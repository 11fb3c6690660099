_base_ = "./dino_lite0_focus_shapes.py"

# Several processes without a GPU: mim train mmdet CONFIG --launcher pytorch --gpus 2
custom_imports = dict(
    imports=["sparse_encoders", "sparse_encoders.datasets", "sparse_encoders.cpu_launch"]
)
env_cfg = dict(dist_cfg=dict(backend="gloo"))
# MMEngine would name a device for each process; on the CPU there is none to name.
model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)
