_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["sparse_encoders", "sparse_encoders.datasets"])
