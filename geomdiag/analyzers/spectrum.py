"""Power of the network's matrices, and of its logits, in the blocks of the task's basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.analyzers._shared import (
    PERMUTATIONS,
    basis_arguments,
    harmonic_matrices,
    key_spectrum,
)
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.spectrum import concentration, neuron_concentration

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import HarmonicBasis, Task

__all__ = ["ANALYZER", "spectrum"]

_MEASURES = (
    "gini",
    "inverse_participation_ratio",
    "effective_blocks",
    "top1",
    "top2",
    "top3",
    "top4",
    "top5",
    "neuron_ipr",
    "neuron_best_share",
)
_NANDA = "arXiv:2301.05217"


def spectrum(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return the spectra of all matrices whose rows carry a harmonic basis.

    Parameters
    ----------
    snapshot : Snapshot
        With matrices; the logits' spectrum comes with the analyzer ``progress``.
    task : Task
        What was to be learnt.

    Returns
    -------
    xr.Dataset
        ``power``, ``key_block``, ``key_p_value`` and ``neuron_owners`` over (matrix, block),
        ``concentration`` over (matrix, measure); the trivial block is left out. Matrices whose
        basis has fewer blocks than the widest are missing in the rest. For abelian groups
        ``block_frequency`` over (block, axis).
    """
    found = harmonic_matrices(snapshot, task)
    labels = list(dict.fromkeys(one for _, b in found.values() for one in b.labels[1:]))
    place = {label: number for number, label in enumerate(labels)}
    shape = (len(found), len(labels))
    power, p_value, owners = (np.full(shape, np.nan) for _ in range(3))
    key = np.zeros(shape, dtype=bool)
    measures = np.full((len(found), len(_MEASURES)), np.nan)
    for number, (name, (matrix, basis)) in enumerate(found.items()):
        own = key_spectrum(snapshot, task, name)
        if own is None:
            continue
        columns = [place[label] for label in basis.labels[1:]]
        power[number, columns] = own.fractions
        key[number, columns] = own.key
        p_value[number, columns] = own.p_values
        numbers: dict[str, Any] = concentration(own.fractions)
        if matrix.columns == "neurons":
            neurons = neuron_concentration(np.asarray(matrix.values), **basis_arguments(basis))
            shares = neurons["best_share"]
            alive = np.isfinite(shares)
            numbers["neuron_ipr"] = neurons["neuron_ipr"]
            numbers["neuron_best_share"] = shares[alive].mean() if alive.any() else np.nan
            owners[number, columns] = neurons["owners"]
        measures[number] = [numbers.get(measure, np.nan) for measure in _MEASURES]
    blocks = ("matrix", "block")
    data: dict[str, Any] = {
        "power": describe(
            blocks,
            power,
            "fraction of non-trivial power",
            "1",
            "squared projection of the columns on the block's basis functions over the rows "
            "(tokens or classes), over that on all but the constant; for an abelian group "
            "block k joins the characters k and −k, for another group a block holds the "
            "matrix coefficients of an irreducible representation",
            _NANDA,
        ),
        "concentration": describe(
            ("matrix", "measure"),
            measures,
            "concentration of the spectrum",
            "1",
            "of the fractions f over the blocks. gini; inverse_participation_ratio: Σf²; "
            "effective_blocks: exp of the entropy of f; top1 … top5: sum of the largest; over "
            "neurons (matrices whose columns are neurons), neuron_ipr: mean of Σf² of each "
            "neuron's own fractions; neuron_best_share: mean of each neuron's largest fraction",
            _NANDA,
        ),
        "key_block": describe(
            blocks,
            key,
            "whether a block stands out",
            "1",
            "key_p_value ≤ 0.001; 0 also where the checkpoint failed (key_p_value is missing)",
        ),
        "key_p_value": describe(
            blocks,
            p_value,
            "family-wise p-value of a block's power",
            "1",
            "share of random relabellings of the tokens whose largest block power reaches the "
            f"block's; sequential, {PERMUTATIONS} relabellings at most. Blocks of different size "
            "are compared by (P − μ)/σ, with mean and spread for their number d of functions: "
            "μ = T d/(m − 1) of the total T, σ² ∝ d (1 − d/(m − 1))",
            "doi:10.1093/biomet/78.2.301",
        ),
        "neuron_owners": describe(
            blocks,
            owners,
            "number of neurons that a block owns",
            "1",
            "neurons whose largest fraction of non-trivial power is the block's",
        ),
    }
    coords: dict[str, Any] = {"matrix": list(found), "block": labels, "measure": list(_MEASURES)}
    grid = _dual_grid([basis for _, basis in found.values()])
    if grid is not None:
        frequencies = np.array([grid[label] for label in labels], dtype=np.int64)
        coords["axis"] = [f"k{i + 1}" for i in range(frequencies.shape[1])]
        data["block_frequency"] = describe(
            ("block", "axis"),
            frequencies,
            "place of a block on the dual grid",
            "1",
            "residues (k1, k2, …) of the block's character exp(2πi Σ_j k_j x_j/n_j) on the abelian "
            "group Z_n1 × Z_n2 × …; of k and −k the smaller",
            "arXiv:2603.01968, Proposition 7.1",
        )
    return dataset(data, coords)


def _dual_grid(bases: Sequence[HarmonicBasis]) -> dict[str, NDArray[np.int64]] | None:
    """Return the frequency of each label, None where the bases do not share one dual grid."""
    found: dict[str, NDArray[np.int64]] = {}
    if len({basis.periods for basis in bases}) != 1:
        return None
    for basis in bases:
        if basis.coordinates is None:
            return None
        found.update(zip(basis.labels, basis.coordinates, strict=True))
    return found


def _applies(task: Task) -> str:
    if len(task.basis.labels) > 1:
        return ""
    return f"the harmonic basis of {task.name} has no block but the constants"


ANALYZER = Analyzer(
    "spectrum",
    spectrum,
    needs=("matrices",),
    applies=_applies,
    variables=(
        "power",
        "concentration",
        "key_block",
        "key_p_value",
        "neuron_owners",
        "block_frequency",
    ),
    static=("block_frequency",),
    version=2,
)
