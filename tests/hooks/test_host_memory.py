"""The resident memory of a training process and of its loading workers."""

import gc
import multiprocessing
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.logging import MessageHub

from sparse_encoders.hooks import HostMemoryHook
from sparse_encoders.hooks.host_memory import MIB, resident_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


def test_held_memory_is_seen():
    gc.collect()  # what other tests left must not be given back in between
    before = resident_memory(os.getpid())
    held = np.ones(256 * MIB, dtype=np.uint8)
    after = resident_memory(os.getpid())
    assert 192 * MIB < after - before < 320 * MIB and held[-1] == 1
    assert resident_memory(0) is None


def test_it_logs_itself_and_its_workers_every_interval():
    hub, hook = MessageHub("test_host_memory"), HostMemoryHook(interval=2)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    for iteration in range(6):
        if iteration == 4:
            worker.kill()
            worker.join()
        hook.after_train_iter(SimpleNamespace(iter=iteration, message_hub=hub), iteration)
    (own, _), (workers, _) = (
        hub.get_scalar(f"train/{name}_memory").data for name in ("host", "worker")
    )
    assert len(own) == 3 and own.min() > 50
    assert workers[0] > workers[2] + 1  # others of this process may still run
    with pytest.raises(ValueError, match=r"HostMemoryHook.interval must be at least 1, got 0"):
        HostMemoryHook(interval=0)
