"""The few loops that numpy cannot do well, compiled by numba, each beside its numpy twin.

Decides when compiled code is used; what it computes is decided in the modules beside this one. Nothing else in dvidfs
imports numba. Invariant: a kernel and its twin give the same bytes (the twin is the oracle in the tests), so it
never matters to a caller which of the two ran.

Importing numba takes half a second, so nobody waits for it: the first call that would gain from a kernel starts loading it in a
thread and uses the twin meanwhile. A server calls :func:`load` while it starts. ``DVIDFS_KERNELS=numpy`` forbids numba.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import threading
from types import ModuleType

log = logging.getLogger(__name__)


class _Slot:
    """The compiled module of one kernel: not asked for, being loaded, there, or not to be had (None)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: ModuleType | None = None
        self.lock = threading.Lock()
        self.done = False
        self.started = False

    def load(self) -> ModuleType | None:
        with self.lock:
            if not self.done:
                self.module = _import(self.name)
                self.done = True
        return self.module

    def ready(self) -> ModuleType | None:
        if not (self.done or self.started):
            self.started = True
            threading.Thread(target=self.load, name=f"load-{self.name}", daemon=True).start()
        return self.module


def _import(name: str) -> ModuleType | None:
    if os.environ.get("DVIDFS_KERNELS") == "numpy":
        return None
    try:
        return importlib.import_module(f"dvidfs.kernels.{name}")
    except ImportError as error:  # numba lags behind new Pythons: everything still works, slower
        log.warning("compiled kernels are not used: %s", error)
        return None


@functools.cache
def _slot(name: str) -> _Slot:
    return _Slot(name)


def load(name: str) -> ModuleType | None:
    """The compiled module ``dvidfs.kernels.<name>``, imported now; None where it cannot be had."""
    return _slot(name).load()


def ready(name: str) -> ModuleType | None:
    """The compiled module if it is loaded, else None; the first call starts loading it in a thread."""
    return _slot(name).ready()
