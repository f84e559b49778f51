"""Types that checkpoints store, and how much of a file a call reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TORCH = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
)
#: Types NumPy lacks, which come as float32.
WIDENED = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def bytes_read(call: Callable[[], Any]) -> int:
    """Return how many bytes this process reads from files while `call` runs (Linux)."""
    counts = Path("/proc/self/io")

    def so_far() -> int:
        return int(counts.read_text().splitlines()[0].split()[1])

    call()  # imports and caches
    before = so_far()
    own = so_far() - before
    before = so_far()
    call()
    return so_far() - before - own
