# Activations of these layers are computed again in the backward pass instead of being kept. The
# gradients are the same; a step takes longer. with_cp: ResNet and Swin have it.
checkpointing = dict(backbone=dict(with_cp=True), encoder=dict(num_cp=6))
