_base_ = "./swin-b-224-22k.py"

# Swin-B, trained on ImageNet-22K at 384 pixels, windows of 12.
backbone = dict(
    pretrain_img_size=384,
    window_size=12,
    init_cfg=dict(
        checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
        "swin_base_patch4_window12_384_22k.pth"
    ),
)
