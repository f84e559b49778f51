"""Helices of any finite abelian group: how well a few characters predict the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, to_numpy
from geomdiag.metrics._checks import finite_matrix
from geomdiag.metrics._relabel import random_permutations
from geomdiag.metrics.helix import HelixFit
from geomdiag.metrics.spectrum import general_powers

__all__ = ["character_helix_fit", "generates"]

FloatArray = NDArray[np.float64]

# As in `helix_fit`: an ordinary fit is judged by the first relabellings alone.
_FIRST = 99
_DOUBT = 0.1
_EQUAL = 1e-10


def character_helix_fit(
    matrix: Array,
    key: Iterable[int],
    *,
    vectors: Array,
    block: Array,
    members: Array | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> HelixFit:
    """Regress the rows of a matrix on the real characters of some blocks.

    What `helix_fit` is to the cyclic group: cosine and sine of each key character ±k are two
    orthonormal functions of the tokens (one where k = −k), so that R² is the share of
    non-trivial power in the key blocks. ``cos² + sin² = 1``: every token has the leverage
    ``(1 + number of functions) / m``, and leave-one-out errors are those of the fit, scaled.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    key : iterable of int
        Distinct blocks, from 1 on, chosen on this very matrix: every relabelling is given
        its own best blocks, as many. None of them: R² is 0 and the p-value 1.
    vectors : (m, m) array
        Orthonormal real characters over the members, one a column; block 0 is constant.
    block : (m,) int array
        Block of each column.
    members : (m,) int array, optional
        Rows of the group's elements; all rows as they stand if left out.
    permutations, seed
        As in `helix_fit`.

    Returns
    -------
    HelixFit
        ``frequencies`` is the number of key blocks. NaN except for it where the rows do not
        vary.

    Raises
    ------
    ValueError
        If the matrix is empty or not finite, or a key block is out of range or given twice.

    References
    ----------
    arXiv:2603.01968, Proposition 7.1. Leave-one-out residuals: Allen 1974,
    doi 10.1080/00401706.1974.10489157. p-value: Besag & Clifford 1991, doi
    10.1093/biomet/78.2.301; Phipson & Smyth 2010, doi 10.2202/1544-6115.1585.
    """
    matrix = finite_matrix(matrix)
    rows = np.asarray(
        to_numpy(matrix if members is None else matrix[index_like(members, matrix)]),
        dtype=np.float64,
    )
    functions = np.asarray(to_numpy(vectors), dtype=np.float64)
    place = np.asarray(to_numpy(block), dtype=np.int64)
    chosen = sorted(int(k) for k in key)
    if len({*chosen}) < len(chosen) or (chosen and not 1 <= chosen[0] <= chosen[-1] <= place.max()):
        raise ValueError(
            f"key blocks are {chosen}; expected different ones between 1 and {place.max()}"
        )
    order = len(rows)
    rows = rows - rows.mean(axis=0)
    gram = rows @ rows.T
    residue = (4 * np.finfo(np.float64).eps) ** 2 * float(np.sum(to_numpy(matrix) ** 2))
    if not np.trace(gram) > residue:
        return HelixFit(math.nan, math.nan, math.nan, len(chosen))
    if not chosen:
        return HelixFit(0.0, 0.0, 1.0, 0)

    def best(orders: NDArray[np.int64]) -> FloatArray:
        """Return the R² of relabelled tokens, each with its own best blocks."""
        null = general_powers(gram, orders, functions, place)[:, 1:]
        null /= null.sum(axis=1, keepdims=True)
        largest = np.partition(null, null.shape[1] - len(chosen), axis=1)[:, -len(chosen) :]
        return np.asarray(largest.sum(axis=1))

    power = general_powers(gram, np.arange(order)[None], functions, place)[0, 1:]
    r2 = float(min(1.0, power[np.array(chosen) - 1].sum() / power.sum()))
    waves = int(np.isin(place, chosen).sum())
    if 1 + waves >= order:
        r2_loo = math.nan
    else:
        scale = (1 - 1 / order) / (1 - (1 + waves) / order)
        r2_loo = 1 - (1 - r2) * scale**2
    if permutations <= 0:
        return HelixFit(r2, r2_loo, math.nan, len(chosen))
    orders = random_permutations(order, permutations, seed)
    null = best(orders[:_FIRST])
    if len(null) < permutations and _p_value(r2, null) <= _DOUBT:
        null = np.concatenate([null, best(orders[_FIRST:])])
    return HelixFit(r2, r2_loo, _p_value(r2, null), len(chosen))


def generates(frequencies: Array | Sequence[Sequence[int]], periods: Sequence[int]) -> bool:
    """Return whether characters of ``Z_n1 × ... × Z_nr`` generate the dual group.

    They do exactly when no element but the identity is sent to 1 by all of them, so that the
    helix ``x ↦ (χ_1(x), χ_2(x), ...)`` gives no two tokens the same place. In the cyclic
    group Z_n: ``gcd(k_1, k_2, ..., n) = 1``. Decided in whole numbers.

    Parameters
    ----------
    frequencies : (characters, r) int array
        Residues of each character.
    periods : sequence of int
        n1, ..., nr.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If the characters have another number of residues.

    References
    ----------
    arXiv:2603.01968, Proposition 7.1.
    """
    chosen = np.asarray(to_numpy(frequencies), dtype=np.int64).reshape(-1, len(periods))
    if len(chosen) != len(frequencies):
        raise ValueError(
            f"found {chosen.size} residues of {len(frequencies)} characters; expected "
            f"{len(periods)} each, one for each period"
        )
    if len(periods) == 1:
        return math.gcd(periods[0], *chosen[:, 0].tolist()) == 1
    common = math.lcm(*periods)
    weights = common // np.asarray(periods)
    elements = np.indices(tuple(periods)).reshape(len(periods), -1)
    turns = (chosen * weights) @ elements % common
    return int((turns == 0).all(axis=0).sum()) == 1


def _p_value(observed: float, null: FloatArray) -> float:
    return float((1 + np.count_nonzero(null >= observed - _EQUAL)) / (1 + len(null)))
