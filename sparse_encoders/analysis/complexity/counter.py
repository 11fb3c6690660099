"""Counter of the multiply-adds of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmdet.models.detectors.base_detr import DetectionTransformer
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.flop_counter import FlopCounterMode

from sparse_encoders.analysis.complexity.formulas import FORMULAS, OPERATIONS_PER_MADD
from sparse_encoders.analysis.complexity.parts import PARTS, PartFinder
from sparse_encoders.analysis.complexity.shapes_only import ShapesOnly, zeros
from sparse_encoders.analysis.inputs import random_batch


@dataclass(frozen=True)
class Part:
    """One part's share of a detector.

    Attributes:
        madds: multiply-adds of one forward pass; one multiply-add counts one.
        parameters: numbers learned or frozen, each counted once.
    """

    madds: int = 0
    parameters: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(self.madds + other.madds, self.parameters + other.parameters)


@dataclass(frozen=True)
class Complexity:
    """Multiply-adds and parameters of a detector for one image.

    Attributes:
        parts: of every name in :data:`PARTS`, in that order; they sum up to :attr:`total`.
        image_hw: (height, width) of the image in pixels.
        padded_hw: the same after the data preprocessor's padding.
    """

    parts: dict[str, Part]
    image_hw: tuple[int, int]
    padded_hw: tuple[int, int]

    @property
    def total(self) -> Part:
        """All parts."""
        return sum(self.parts.values(), Part())

    @property
    def madds(self) -> int:
        """Multiply-adds of all parts."""
        return self.total.madds

    @property
    def parameters(self) -> int:
        """Parameters of all parts."""
        return self.total.parameters

    def group(self, name: str) -> Part:
        """A part, or the sum of the parts below a name such as 'encoder' or 'first_stage'.

        Raises:
            ValueError: no part or group has this name.
        """
        members = [p for n, p in self.parts.items() if n == name or n.startswith(f"{name}.")]
        if not members:
            raise ValueError(f"part must be one of {', '.join(PARTS)} or a group, got {name!r}")
        return sum(members, Part())

    @property
    def groups(self) -> dict[str, Part]:
        """Sums of parts, as in published figures; they overlap.

        'encoder' is all of it; 'encoder without selector' leaves out the score MLP and the
        first-stage projection that the selector runs; 'decoder with heads' has all heads, those
        of the first stage included.
        """
        encoder, selector = self.group("encoder"), self.parts["encoder.selector"]
        rest = (encoder.madds - selector.madds, encoder.parameters - selector.parameters)
        heads = ("decoder", "head", "first_stage.heads")
        return {
            "encoder": encoder,
            "encoder without selector": Part(*rest),
            "decoder with heads": sum((self.parts[name] for name in heads), Part()),
        }

    def as_record(self) -> dict[str, Any]:
        """For JSON: sizes, totals, groups and parts."""
        return {
            "image_hw": list(self.image_hw),
            "padded_hw": list(self.padded_hw),
            "total": asdict(self.total),
            "groups": {name: asdict(part) for name, part in self.groups.items()},
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }

    def as_table(self) -> str:
        """Markdown: parts that cost something, groups in brackets, multiply-adds in G."""
        lines = ["| part | multiply-adds (G) | share | parameters (M) |", "|" + " --- |" * 4]
        rows = {name: part for name, part in self.parts.items() if part != Part()}
        rows.update({f"({name})": part for name, part in self.groups.items()})
        rows["total"] = self.total
        for name, part in rows.items():
            share = part.madds / self.madds if self.madds else 0.0
            lines.append(
                f"| {name} | {part.madds / 1e9:.3f} | {share:.1%} | {part.parameters / 1e6:.3f} |"
            )
        return "\n".join(lines)


@torch.no_grad()
def count_complexity(
    model: nn.Module, image_hw: tuple[int, int], auxiliary_heads: bool = False
) -> Complexity:
    """Multiply-adds and parameters of a detector, by part.

    One image runs through the detector as at test time, up to the head's class logits and boxes,
    under torch's flop counter. Counted are matrix products, convolutions, samples and their sums;
    not counted are norms, activations, softmax, biases and other element by element work. Only
    shapes are computed: it takes about a second and no memory, wherever the weights are.

    Args:
        model: MMDetection's DETR detector, any encoder; it runs in evaluation mode.
        image_hw: (height, width) in pixels, before the data preprocessor's padding.
        auxiliary_heads: also run the heads that the encoder has for its training losses, if any,
            as the released Sparse DETR does at test time; here they only run in training.

    Raises:
        TypeError: the model is not a DETR detector of MMDetection.
        ValueError: the size is not a pair of positive integers.
    """
    if not isinstance(model, DetectionTransformer):
        raise TypeError(
            "model must be a DETR detector of MMDetection (a DetectionTransformer), got "
            f"{type(model).__name__}"
        )
    image_hw = _checked(image_hw)
    divisor = int(getattr(model.data_preprocessor, "pad_size_divisor", 1))
    height, width = (-(-side // divisor) * divisor for side in image_hw)
    padded_hw = (height, width)
    _, samples = random_batch(image_hw, "cpu", boxes=0)
    samples[0].set_metainfo(dict(batch_input_shape=padded_hw))
    finder = PartFinder(model)
    weights = {
        name: zeros(tensor.shape, tensor.dtype)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    image = zeros((1, 3, *padded_hw), torch.float32)
    heads = _auxiliary_heads(model) if auxiliary_heads else nullcontext()
    training = model.training
    model.eval()
    try:
        with ShapesOnly(), _counting(model, finder) as madds, heads:
            inputs = dict(data_samples=samples, mode="tensor")
            torch.func.functional_call(model, weights, (image,), inputs)
    finally:
        model.train(training)
    parameters = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        parameters[finder.of_parameter(name)] += parameter.numel()
    parts = {name: Part(madds[name], parameters[name]) for name in PARTS}
    return Complexity(parts, image_hw, padded_hw)


@contextmanager
def _counting(model: nn.Module, finder: PartFinder) -> Iterator[dict[str, int]]:
    """Multiply-adds by part of what runs inside, assigned by the modules that run it."""
    names = {module: name for name, module in model.named_modules() if name}
    madds, booked = dict.fromkeys(PARTS, 0), 0
    stack: list[str] = []
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)

    def book() -> None:
        """Assign the operations since the last call to the modules that are running."""
        nonlocal booked
        counted = counter.get_total_flops()
        if counted != booked:
            madds[finder.of_stack(stack)] += (counted - booked) // OPERATIONS_PER_MADD
            booked = counted

    def enter(module: nn.Module, args: Any) -> None:
        if module in names:
            book()
            stack.append(names[module])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if module in names:
            book()
            stack.pop()

    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave), counter:
        yield madds
    book()


def _checked(image_hw: Any) -> tuple[int, int]:
    """(height, width) as two positive integers.

    Raises:
        ValueError: other values.
    """
    sides = tuple(image_hw) if isinstance(image_hw, (tuple, list)) else (image_hw,)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"image size must be height and width, two integers above 0, got {image_hw!r}"
        )
    return sides[0], sides[1]


@contextmanager
def _auxiliary_heads(model: nn.Module) -> Iterator[None]:
    """Inside, an encoder's heads for training losses run after it at test time, too."""
    encoder: Any = model.encoder
    if getattr(encoder, "auxiliary", None) is None:
        yield
        return

    refined: list[Tensor] = []

    def run(module: Any, args: Any, output: Any) -> None:
        module.auxiliary(refined, output.layers, output.tokens)
        refined.clear()

    def refine(module: Any, args: Any, output: Tensor) -> None:
        refined.append(output)

    with ExitStack() as hooks:
        for layer in encoder.layers:
            hooks.enter_context(layer.register_forward_hook(refine))
        hooks.enter_context(encoder.register_forward_hook(run))
        yield
