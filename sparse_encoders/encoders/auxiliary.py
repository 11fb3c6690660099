"""Detection heads on an encoder's tokens, for training only."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import bias_init_with_prob, constant_init
from torch import Tensor, nn

from sparse_encoders.contracts import DetectionLoss
from sparse_encoders.selectors.selection import LayerSelection
from sparse_encoders.tokens import TokenGrid


class AuxiliaryHeads(nn.Module):
    """A classification and a box branch after each encoder layer but the last.

    They give the kept tokens of every layer a loss of their own (Sparse DETR, section 3.5). A
    token's box is an offset to its first-stage proposal. The branches are laid out and named like
    those of MMDetection's heads.

    Args:
        num_heads: encoder layers minus one.
        embed_dims: channels C.
        num_classes: outputs of the classification branch.
    """

    def __init__(self, num_heads: int, embed_dims: int, num_classes: int) -> None:
        super().__init__()
        self.cls_branches = nn.ModuleList(
            nn.Linear(embed_dims, num_classes) for _ in range(num_heads)
        )
        self.reg_branches = nn.ModuleList(_box_branch(embed_dims) for _ in range(num_heads))
        self.init_weights()

    def init_weights(self) -> None:
        """Start from class probabilities of 0.01 and from boxes that equal the proposals."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        for classify, regress in zip(self.cls_branches, self.reg_branches, strict=True):
            nn.init.constant_(classify.get_parameter("bias"), bias_init_with_prob(0.01))
            constant_init(regress.get_submodule("4"), 0, bias=0)

    def forward(
        self, refined: Sequence[Tensor], layers: Sequence[LayerSelection], tokens: TokenGrid
    ) -> list[tuple[Tensor, Tensor]]:
        """Class logits and boxes of every layer's (B, K, C) refined tokens.

        Returns:
            For each layer but the last (B, K, classes) logits and (B, K, 4) boxes (cx, cy, w, h)
            as shares of the image; (1, 1, 1, 1) for an unusable token, as in MMDetection's
            first stage.
        """
        outputs = []
        branches = zip(self.cls_branches, self.reg_branches, strict=True)
        for (classify, regress), kept, chosen in zip(branches, refined, layers, strict=False):
            boxes = (chosen.gather(tokens.proposals) + regress(kept)).sigmoid()
            outputs.append((classify(kept), boxes))
        return outputs

    def loss(
        self,
        refined: Sequence[Tensor],
        layers: Sequence[LayerSelection],
        tokens: TokenGrid,
        detection_loss: DetectionLoss,
    ) -> dict[str, Tensor]:
        """``enc{i}.loss_cls``, ``enc{i}.loss_bbox`` and ``enc{i}.loss_iou`` of encoder layer i.

        The detector's head matches and weights them like the losses of a decoder layer.
        """
        losses = {}
        for index, (logits, boxes) in enumerate(self(refined, layers, tokens)):
            parts = detection_loss(logits, boxes)
            for name, value in zip(("cls", "bbox", "iou"), parts, strict=True):
                losses[f"enc{index}.loss_{name}"] = value
        return losses


def _box_branch(embed_dims: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(embed_dims, embed_dims),
        nn.ReLU(),
        nn.Linear(embed_dims, embed_dims),
        nn.ReLU(),
        nn.Linear(embed_dims, 4),
    )
