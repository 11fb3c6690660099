"""FusedAdamW is AdamW with every torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from sparse_encoders.optimizers import FusedAdamW


def test_it_computes_what_adamw_does() -> None:
    weights = []
    for kind in (FusedAdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        groups = [{"params": [layer.weight], "lr": 0.2}, {"params": [layer.bias]}]
        optimizer = kind(groups, lr=0.1, weight_decay=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    torch.testing.assert_close(*weights)


def test_it_is_plain_where_fused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.optim.AdamW.__init__

    def refuse(self: Any, params: Any, fused: bool | None = None, **settings: Any) -> None:
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be on a GPU")
        plain(self, params, **settings)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", refuse)
    optimizer = FusedAdamW(iter([nn.Parameter(torch.ones(1))]), lr=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]
    assert not optimizer.param_groups[0]["fused"]


def test_a_config_names_it() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    wrapper = build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="FusedAdamW", lr=0.1, weight_decay=0.1),
            paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.5)}),
        ),
    )
    assert isinstance(wrapper.optimizer, FusedAdamW)
    assert {group["lr"] for group in wrapper.optimizer.param_groups} == {0.05, 0.1}
