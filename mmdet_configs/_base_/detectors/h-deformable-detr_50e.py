_base_ = ["../models/h-deformable-detr_r50.py", "../schedules/coco_50e.py"]

max_epochs = _base_.schedule.max_epochs
train_cfg = _base_.schedule.train_cfg
param_scheduler = _base_.schedule.param_scheduler
