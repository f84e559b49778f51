"""Memory that a step frees stays with the process, so that the next step need not fetch it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

# parameters of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MEBIBYTE = 2**20
#: The most that glibc's own adapting threshold comes to; that of trimming is twice it.
_MOST = 32 * _MEBIBYTE


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory with the process meanwhile, where the C library is glibc.

    glibc gives large blocks back to the kernel when they are freed, and the kernel clears every
    page of them before the next step may use it. That takes a third of the time of a step of
    some 5 MB. Afterwards what is free is given back, and blocks are kept as glibc itself would
    keep them at most. Numbers do not depend on it.
    """
    library = _glibc()
    if library is None:
        yield
        return
    # before 2.35 glibc refuses more than it adapts to itself, and would then adapt no more
    if not library.mallopt(_MMAP_THRESHOLD, 1024 * _MEBIBYTE):
        library.mallopt(_MMAP_THRESHOLD, _MOST)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # setting them has ended that they adapt
        library.mallopt(_MMAP_THRESHOLD, _MOST)
        library.mallopt(_TRIM_THRESHOLD, 2 * _MOST)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
