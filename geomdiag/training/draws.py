"""Random numbers that are a function of seed, step and place: nothing to save, any device.

A resumed training draws what the unbroken one drew, and a seed draws the same beside others
as alone. Counters are hashed by integer arithmetic on the device itself (the finaliser of
SplitMix64, doi 10.1145/2660193.2660195), so that a step moves no numbers to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draws"]


def _signed(bits: int) -> int:
    """Return the int64 of the same 64 bits."""
    return bits - (1 << 64) if bits >> 63 else bits


_GOLDEN = _signed(0x9E3779B97F4A7C15)
#: What the counter of steps is multiplied by: odd, so that no two steps are the same.
_ODD = 0xD1342543DE82EF95
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(x: Tensor, by: int) -> Tensor:
    # int64 shifts drag the sign along; it is masked away
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


class Draws:
    """Independent streams of random numbers, one a seed.

    Parameters
    ----------
    seeds : sequence of int
        One a network, any size.
    stream : int
        Streams of different numbers are independent of each other.
    device : torch.device
        Where they are made.
    """

    def __init__(self, seeds: Sequence[int], stream: int, device: torch.device) -> None:
        keys = [
            np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1, np.uint64)[0]
            for seed in seeds
        ]
        self._keys = torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64)).to(device)

    def uniform(self, step: int, count: int) -> Tensor:
        """Return numbers from [0, 1), (seeds, count) float64."""
        base = _mixed(self._keys + _signed(step * _ODD % (1 << 64)))[:, None]
        place = torch.arange(1, count + 1, device=self._keys.device)
        bits = _mixed(base + place * _GOLDEN)
        return _shifted(bits, 11).double() * 2.0**-53

    def normal(self, step: int, count: int) -> Tensor:
        """Return Gaussians of mean 0 and variance 1, (seeds, count) float64."""
        half = (count + 1) // 2
        first, second = self.uniform(step, 2 * half).chunk(2, dim=1)
        radius = torch.sqrt(-2 * torch.log1p(-first))  # 1 - first is never 0
        angle = 2 * math.pi * second
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return both[:, :count]

    def integers(self, step: int, count: int, below: int) -> Tensor:
        """Return whole numbers from 0 to ``below - 1``, (seeds, count) int64."""
        return (self.uniform(step, count) * below).long()
