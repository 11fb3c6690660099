"""Stop a training with a NaN or infinite loss, with a message about its origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
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
    """Stop a training when a loss is NaN or infinite, before a weight is updated with it.

    In a config: ``custom_hooks = [dict(type="NonFiniteLossHook")]``. The error message names
    the first such loss in the order of computation, the first tensor of encoder and
    selector that was not finite, and a weight that is not. The losses of each forward pass are
    checked, with accumulated gradients too. An overflow of a loss scaler (float16)
    makes gradients infinite, not losses, and does not stop the training. NaN predictions reach
    the losses (see :class:`MatchAnyway`).

    Inputs of the encoder and outputs of its layers and of its selector's modules are reduced
    to their smallest and largest value on the device; the host waits for one flag in each pass.

    Raises:
        FloatingPointError: in training, at the first such loss.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Register the checks on the runner's model."""
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
        """Remove the checks."""
        while self._handles:
            self._handles.pop().remove()


class MatchAnyway:
    """Replace an assigner's ``assign``, until it is removed, by one that takes NaN predictions.

    SciPy refuses to match them (``matrix contains invalid numeric entries``), before a loss is
    computed. Here they are matched as zeros; losses are computed from the predictions themselves.
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
        """Restore the assigner's own ``assign``."""
        del self.assigner.assign


class EncoderRanges:
    """Smallest and largest value of each tensor of an encoder, in the order they were made."""

    def __init__(self) -> None:
        #: name and (2,) range on the tensor's device, of the current pass
        self.seen: list[tuple[str, Tensor]] = []

    def observe(self, encoder: nn.Module) -> list[Any]:
        """Register the hooks that fill :attr:`seen`; returns their handles."""

        def begin(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
            self.seen.clear()
            for name, given in [*enumerate(inputs), *named.items()]:
                self._note(f"input {name} of the encoder", given)

        def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            self._note(f"the output of encoder.{name}", output)

        def end(module: nn.Module, inputs: Any, output: Any) -> None:
            selection = getattr(output, "selection", None)
            self._note("the selector's scores", getattr(selection, "logits", None))
            self._note("the encoder's memory", getattr(output, "memory", output))

        handles = [encoder.register_forward_pre_hook(begin, with_kwargs=True)]
        for name, module in encoder.named_modules():
            # every module of the selector; elsewhere layers and their parts
            if name and (name.startswith("selector") or name.count(".") < 3):
                handles.append(module.register_forward_hook(partial(note, name)))
        return [*handles, encoder.register_forward_hook(end)]

    def first_non_finite(self) -> str | None:
        """Name of the first tensor with a NaN or an infinity; None if all were finite."""
        if not self.seen:
            return None
        finite = torch.stack([range_ for _, range_ in self.seen]).isfinite().all(1).tolist()
        return next((n for (n, _), good in zip(self.seen, finite, strict=True) if not good), None)

    @torch.no_grad()
    def _note(self, name: str, value: Any) -> None:
        for label, tensor in _floats(name, value):
            # older torch has no aminmax of float16 on the CPU
            low, high = torch.aminmax(tensor if tensor.is_cuda else tensor.float())
            self.seen.append((label, torch.stack([low, high]).float()))


def _floats(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in a module's input or output, with names."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield name, value
    elif isinstance(value, TokenGrid):
        yield "the features that the encoder takes from the neck", value.features
        yield "the position embedding that the encoder takes", value.pos_embed
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _floats(name, item)


def non_finite_losses(losses: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Name and value of every loss that is not finite, in the order of computation.

    As in MMEngine only names with 'loss' in them count; a loss is a tensor or a list of tensors.
    """
    parts = [
        part for name, loss in losses.items() if "loss" in name for part in _floats(name, loss)
    ]
    if not parts or torch.cat([x.detach().reshape(-1).float() for _, x in parts]).isfinite().all():
        return []
    # autograd numbers its nodes in the order of computation; tensors without a node have 0
    parts.sort(key=lambda part: getattr(part[1].grad_fn, "_sequence_nr", lambda: 0)())
    return [(n, float(x.detach().sum())) for n, x in parts if not x.isfinite().all()]


def _sentence(
    step: int, wrong: list[tuple[str, float]], ranges: EncoderRanges, model: nn.Module
) -> str:
    """The error message."""
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
