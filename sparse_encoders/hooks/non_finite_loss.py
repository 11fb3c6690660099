"""Stop a training whose loss is no number, and say where it began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmdet.models.task_modules.assigners import HungarianAssigner
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from sparse_encoders.tokens import TokenGrid


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop with a sentence when a loss turns NaN or infinite, before it reaches a weight.

    In a config: ``custom_hooks = [dict(type="NonFiniteLossHook")]``. The sentence names
    the first such loss in the order of computation, the first tensor of encoder and
    selector that was not finite, and a weight that is not. Losses are read as the model
    gives them, in each pass of accumulated gradients: a loss scaler's overflow (float16)
    makes gradients infinite, not losses, and stops nothing. Predictions that are no
    numbers reach the losses (see :class:`MatchAnyway`).

    What the encoder takes and what its layers and its selector's modules give is reduced
    to smallest and largest value on the device; the host waits for one flag a pass.

    Raises:
        FloatingPointError: in training, at the first such loss.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the runner's model."""
        self.after_train(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        ranges = EncoderRanges()
        encoder = getattr(model, "encoder", None)
        if isinstance(encoder, nn.Module):
            self._handles += ranges.observe(encoder)

        def check(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if module.training and isinstance(outputs, Mapping):
                wrong = non_finite_losses(outputs)
                if wrong:
                    raise FloatingPointError(_sentence(runner.iter + 1, wrong, ranges, module))

        self._handles.append(model.register_forward_hook(check))
        assigner = getattr(getattr(model, "bbox_head", None), "assigner", None)
        if isinstance(assigner, HungarianAssigner):
            self._handles.append(MatchAnyway(assigner))

    def after_train(self, runner: Runner) -> None:
        """Let go of the model."""
        while self._handles:
            self._handles.pop().remove()


class MatchAnyway:
    """Let predictions that are no numbers reach the losses, until it is removed.

    SciPy refuses to match them (``matrix contains invalid numeric entries``), so that no
    loss would ever be NaN. They are then matched as zeros; the loss still reads them as
    they are.

    Args:
        assigner: of a detector's head; gets another ``assign``.
    """

    def __init__(self, assigner: HungarianAssigner) -> None:
        self.assigner = assigner
        assign = assigner.assign

        def assign_anyway(pred_instances: InstanceData, *args: Any, **kwargs: Any) -> Any:
            try:
                return assign(pred_instances, *args, **kwargs)
            except ValueError:
                zeros = dict(nan=0.0, posinf=0.0, neginf=0.0)
                usable = {k: v.nan_to_num(**zeros) for k, v in pred_instances.items()}
                return assign(InstanceData(**usable), *args, **kwargs)

        assigner.assign = assign_anyway

    def remove(self) -> None:
        """Give the assigner its own ``assign`` back."""
        del self.assigner.assign


class EncoderRanges:
    """Smallest and largest value of each tensor of an encoder, in the order they were made."""

    def __init__(self) -> None:
        #: name and (2,) range on the tensor's device, of the pass at hand
        self.seen: list[tuple[str, Tensor]] = []

    def observe(self, encoder: nn.Module) -> list[Any]:
        """Register the hooks that fill :attr:`seen`; the handles that remove them."""

        def begin(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
            self.seen.clear()
            for number, given in enumerate(inputs):
                self._note(given, f"input {number} of the encoder")
            for name, given in named.items():
                self._note(given, f"the encoder's input {name!r}")

        def end(module: nn.Module, inputs: Any, output: Any) -> None:
            selection = getattr(output, "selection", None)
            self._note(getattr(selection, "logits", None), "the selector's scores")
            self._note(getattr(output, "memory", output), "the encoder's memory")

        handles = [encoder.register_forward_pre_hook(begin, with_kwargs=True)]
        for name, module in encoder.named_modules():
            # every module of the selector; elsewhere layers and their parts
            if name and (name.startswith("selector") or name.count(".") < 3):
                handles.append(module.register_forward_hook(self._noting(f"encoder.{name}")))
        return [*handles, encoder.register_forward_hook(end)]

    def first_non_finite(self) -> str | None:
        """Name of the first tensor with a NaN or an infinity; None where all were finite."""
        if not self.seen:
            return None
        finite = torch.stack([found for _, found in self.seen]).isfinite().all(1).tolist()
        return next((n for (n, _), good in zip(self.seen, finite, strict=True) if not good), None)

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            self._note(output, f"the output of {name}")

        return note

    @torch.no_grad()
    def _note(self, value: Any, name: str) -> None:
        for label, tensor in _floats(value, name):
            # older torch has no aminmax of float16 on the CPU
            low, high = torch.aminmax(tensor if tensor.is_cuda else tensor.float())
            self.seen.append((label, torch.stack([low, high]).float()))


def _floats(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating tensors in what a module takes or gives, with names."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield name, value
    elif isinstance(value, TokenGrid):
        yield "the features that the encoder takes from the neck", value.features
        yield "the position embedding that the encoder takes", value.pos_embed
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _floats(item, name)


def non_finite_losses(losses: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Name and value of every loss that is not finite, in the order of computation.

    Args:
        losses: as a detector gives them, name to tensor or list of tensors; as in
            MMEngine only names with 'loss' in them count.
    """
    parts: list[tuple[str, Tensor]] = []
    for name, loss in losses.items():
        if "loss" in name:
            items = loss if isinstance(loss, (list, tuple)) else [loss]
            parts += [(name, item) for item in items if isinstance(item, Tensor)]
    if not parts or torch.cat([x.detach().reshape(-1).float() for _, x in parts]).isfinite().all():
        return []
    # autograd numbers what it records; a sort leaves what it has not recorded where it is
    parts.sort(key=lambda part: getattr(part[1].grad_fn, "_sequence_nr", lambda: 0)())
    return [(n, float(x.detach().sum())) for n, x in parts if not x.isfinite().all()]


def _sentence(
    step: int, wrong: list[tuple[str, float]], ranges: EncoderRanges, model: nn.Module
) -> str:
    """What the user reads."""
    name, value = wrong[0]
    rest = f", the first of {len(wrong)} losses that are not finite" if len(wrong) > 1 else ""
    first = ranges.first_non_finite()
    if first is not None:
        where = f"the first encoder or selector tensor that was not finite is {first}"
    elif ranges.seen:
        where = (
            "every tensor of encoder and selector was finite, so it began in the decoder, the "
            "head, the boxes or the loss itself"
        )
    else:
        where = "the model has no encoder that could be observed"
    broken = [n for n, p in model.named_parameters() if not p.isfinite().all()]
    many = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    weights = f"; not finite among the weights: {broken[0]}{many}" if broken else ""
    return f"training stopped in iteration {step}: {name} is {value}{rest}; {where}{weights}"
