# Kept are the checkpoint of the best box AP so far and the last two.
best_checkpoint = dict(save_best="coco/bbox_mAP", rule="greater", max_keep_ckpts=2)
