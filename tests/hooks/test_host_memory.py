"""The resident memory of a training process and of what it has started."""

import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.logging import MessageHub

from sparse_encoders.hooks import HostMemoryHook
from sparse_encoders.hooks.host_memory import MIB, children, resident_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


def test_held_memory_is_seen():
    gc.collect()  # what other tests left must not be given back in between
    before = resident_memory(os.getpid())
    held = np.ones(256 * MIB, dtype=np.uint8)
    after = resident_memory(os.getpid())
    assert 192 * MIB < after - before < 320 * MIB and held[-1] == 1
    assert resident_memory(0) is None


def test_child_processes_are_listed():
    command = [sys.executable, "-c", "print(1, flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"1\n"  # it runs
        assert process.pid in children(os.getpid())
        assert resident_memory(process.pid) > MIB
        process.communicate(b"\n")
    assert process.pid not in children(os.getpid())


def test_it_logs_every_interval():
    hub = MessageHub("test_host_memory")
    hook = HostMemoryHook(interval=2)
    for iteration in range(5):
        runner = SimpleNamespace(iter=iteration, message_hub=hub)
        hook.after_train_iter(runner, iteration)
    scalars = hub.log_scalars
    assert len(scalars["train/host_memory"].data[0]) == 2
    assert scalars["train/host_memory"].current() > 50
    assert scalars["train/worker_memory"].current() >= 0
    with pytest.raises(ValueError, match=r"HostMemoryHook.interval must be at least 1, got 0"):
        HostMemoryHook(interval=0)
