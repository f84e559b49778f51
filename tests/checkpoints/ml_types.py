"""Types that checkpoints store, and how much of a file a call reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FLOAT8 = frozenset({"float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"})
UNSIGNED = frozenset({"uint16", "uint32", "uint64"})
COMPLEX = frozenset({"complex64", "complex128"})
#: Types NumPy lacks, which come as float32.
WIDENED = frozenset({"bfloat16", *FLOAT8})
TYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *sorted(FLOAT8),
    *("int64", "int32", "int16", "int8", "uint8"),
    *sorted(UNSIGNED),
    "bool",
    *sorted(COMPLEX),
)


def name_of(value: np.ndarray | torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def to_numpy(value: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return the array with its own type, of ml_dtypes where NumPy has none."""
    if isinstance(value, np.ndarray):
        return value
    if name_of(value) not in WIDENED:
        return value.numpy()
    ml_dtypes = pytest.importorskip("ml_dtypes", exc_type=ImportError)
    flat = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.view(getattr(ml_dtypes, name_of(value))).reshape(tuple(value.shape))


def as_read(value: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return the array as a `TensorMap` gives it: types NumPy lacks as float32."""
    if isinstance(value, torch.Tensor):
        return (value.float() if name_of(value) in WIDENED else value).numpy()
    return value


def _counted() -> int:
    return int(Path("/proc/self/io").read_text().splitlines()[0].split()[1])


def mapped_bytes(folder: Path) -> int:
    """Return how many bytes of mapped files under `folder` were touched."""
    touched, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(" ", 1)[0]
        if not first.endswith(":"):  # a mapping: addresses, ..., path
            ours = str(folder) in line
        elif ours and first == "Rss:":
            touched += int(line.split()[1]) << 10
    return touched


def forget(folder: Path) -> None:
    """Let the kernel forget the files' contents: what it has in memory, it maps in large pieces."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read(call: Callable[[], Any], folder: Path | None = None) -> int:
    """Return how many bytes this process reads from files while `call` runs (Linux).

    Counted are read calls and, for files under `folder` that what `call` returns keeps mapped
    into memory, the pages touched, with those that the kernel reads ahead around them.
    """
    call()  # imports and caches
    if folder is not None:
        forget(folder)
    before = _counted()
    own = _counted() - before
    mapped = mapped_bytes(folder) if folder is not None else 0
    before = _counted()
    kept = call()
    read = _counted() - before - own
    if folder is not None:
        read += mapped_bytes(folder) - mapped
    del kept
    return read
