"""Helices of any finite abelian group: how well a few characters predict the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, to_numpy
from geomdiag.metrics._checks import centred, finite_matrix
from geomdiag.metrics._relabel import random_permutations
from geomdiag.metrics.helix import HelixFit, left_out, staged_p_value
from geomdiag.metrics.spectrum import general_powers

__all__ = ["character_helix_fit", "generates"]

FloatArray = NDArray[np.float64]


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
    if members is not None:
        matrix = matrix[index_like(members, matrix)]
    rows, total = centred(np.asarray(to_numpy(matrix), dtype=np.float64))
    functions = np.asarray(to_numpy(vectors), dtype=np.float64)
    place = np.asarray(to_numpy(block), dtype=np.int64)
    chosen = sorted(int(k) for k in key)
    if len({*chosen}) < len(chosen) or (chosen and not 1 <= chosen[0] <= chosen[-1] <= place.max()):
        raise ValueError(
            f"key blocks are {chosen}; expected different ones between 1 and {place.max()}"
        )
    order = len(rows)
    gram = rows @ rows.T
    if total == 0:
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
    r2_loo = left_out(r2, int(np.isin(place, chosen).sum()), order)
    if permutations <= 0:
        return HelixFit(r2, r2_loo, math.nan, len(chosen))
    orders = random_permutations(order, permutations, seed)
    return HelixFit(r2, r2_loo, staged_p_value(r2, orders, best), len(chosen))


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
