"""A selector of one linear layer, taught by whether a token's centre lies in a box."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_encoders.contracts import DetectorParts, Targets
from sparse_encoders.registry import MODELS
from sparse_encoders.selectors import Selection, Selector
from sparse_encoders.tokens import TokenGrid


@MODELS.register_module()
class InsideBoxSelector(Selector):
    """Keep the tokens that are most probably inside a box."""

    def __init__(self, *args, loss_weight: float = 1.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)  # layers, levels, channels, keep_ratio, cascade
        self.loss_weight = loss_weight
        self.head = nn.Sequential(nn.LayerNorm(self.embed_dims), nn.Linear(self.embed_dims, 1))

    def score(self, tokens: TokenGrid, detector: DetectorParts) -> Tensor:
        """(B, N) logits; ranking, counting and padding are the base class's work."""
        return self.head(tokens.features + tokens.pos_embed).squeeze(-1)

    def loss(self, selection: Selection, tokens: TokenGrid, targets: Targets) -> dict[str, Tensor]:
        """One entry of the detector's loss dict."""
        height, width = tokens.image_hw
        x, y = tokens.reference_points[:, :, 0].unbind(-1)  # (B, N), shares of the padded input
        labels = torch.zeros_like(selection.logits)
        for image, boxes in enumerate(targets.boxes):  # (n, 4) in pixels
            x1, y1, x2, y2 = (boxes[:, None] / boxes.new_tensor([width, height] * 2)).unbind(-1)
            inside = (x[image] > x1) & (x[image] < x2) & (y[image] > y1) & (y[image] < y2)
            labels[image] = inside.any(0)
        loss = F.binary_cross_entropy_with_logits(selection.logits, labels)
        return {"loss_inside_box": self.loss_weight * loss}
