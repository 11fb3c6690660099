# ResNet-101, otherwise as the detector's ResNet-50.
backbone = dict(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101"))
neck = dict(in_channels=[512, 1024, 2048])
