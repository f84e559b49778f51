"""Holes in the token embedding, and whether the largest one is the task's circle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geomdiag.analyzers._characters import block_phases, of_characters
from geomdiag.analyzers.contract import Analyzer, describe
from geomdiag.metrics.topology import circular_coordinate, circular_correlation, persistence

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "topology"]

_BARS = 10
_REFERENCE = "doi:10.1007/s41468-021-00071-5"


def topology(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``persistence``, ``holes``, ``persistence_shape`` and ``circular_correlation``.

    Of the embedding alone: it costs more than all else, and the other matrices follow it. Tokens
    that the task's basis leaves out (the zero of a multiplication) are no points.
    """
    basis = task.basis
    points = np.asarray(snapshot.embedding)[basis.members]
    found = persistence(points, maxdim=1, bars=_BARS)
    data = {
        "persistence": describe(
            ("matrix", "homology", "bar", "bound"),
            found.bars[None],
            "longest bars of the persistent homology",
            "units of the matrix",
            "Vietoris-Rips filtration of the rows by Euclidean distance, homology with "
            "coefficients modulo 47; radii at which a component (H0) or loop (H1) appears and "
            "vanishes, longest first",
            _REFERENCE,
        ),
        "holes": describe(
            ("matrix", "homology"),
            found.holes[None],
            "number of significant holes",
            "1",
            "bars whose length over the diameter exceeds what the longest bar of structureless "
            "clouds of as many points exceeds once in a hundred",
            _REFERENCE,
        ),
        "persistence_shape": describe(
            ("matrix", "homology", "measure"),
            np.stack([found.longest, found.ratio], axis=-1)[None],
            "shape of the barcode",
            "1",
            "longest_bar: its length over the diameter; bar_ratio: longest over second longest",
            _REFERENCE,
        ),
    }
    coords = {
        "matrix": ["embedding"],
        "homology": ["H0", "H1"],
        "bar": np.arange(_BARS),
        "bound": ["birth", "death"],
        "measure": ["longest_bar", "bar_ratio"],
    }
    if of_characters(basis):
        if basis.period is not None:
            blocks = np.arange(1, len(basis.labels))
            phases = 2 * np.pi * np.outer(blocks, np.arange(basis.period)) / basis.period
        else:
            phases = block_phases(basis)[1:]
        data["circular_correlation"] = describe(
            ("matrix", "block"),
            circular_correlation(circular_coordinate(points, found), phases)[None],
            "agreement of the longest loop's angle with the task's phase",
            "1",
            "largest modulus of the mean of exp(i(θ ∓ φ)), θ the circular coordinate of the "
            "longest H1 bar, φ the angle of the block's character (2πkx/m); about 1/√tokens for "
            "unrelated angles",
            "doi:10.1007/s00454-011-9344-x",
            higher_is_better=True,
        )
        coords["block"] = list(basis.labels[1:])
    return xr.Dataset(data, coords)


ANALYZER = Analyzer(
    "topology",
    topology,
    needs=("embedding",),
    # The homology alone takes as long as the products no forward pass can avoid: opt in.
    default=False,
    variables=("persistence", "holes", "persistence_shape", "circular_correlation"),
)
