"""Power of a matrix in the blocks of a harmonic basis, and how concentrated it is.

A basis is given as arrays: the tokens its functions live on (`members`, in its own order),
its orthonormal `vectors` (columns) and the `block` of each; block 0 is the trivial one
(constants). Where the members run through a cyclic group in order, `period` stands for the
vectors: block k holds the characters ±k. Results over blocks leave the trivial block out:
entry 0 is block 1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, namespace, to_float64, to_numpy
from geomdiag.metrics._relabel import Relabellings, random_permutations
from geomdiag.metrics.group_logits import LogitSpectrum, equivariance_error, logit_spectrum

__all__ = [
    "KeyBlocks",
    "LogitSpectrum",
    "block_power",
    "column_power",
    "concentration",
    "equivariance_error",
    "general_powers",
    "key_blocks",
    "logit_spectrum",
    "neuron_concentration",
    "power_fractions",
]

FloatArray = NDArray[np.float64]

_FIRST = 99  # relabellings that every block is held against
_ENOUGH = 10  # a block that so many of them reach needs no more
_EQUAL = 1e-9  # a relabelling that only renames the frequencies ties, up to rounding


@lru_cache(maxsize=4)
def _waves(period: int) -> FloatArray:
    """Return the orthonormal waves of a cyclic group, (m, m): cosines, then sines.

    For the few hundred tokens that these groups have a product is faster than a transform,
    which likes neither prime lengths nor the first axis.
    """
    half = period // 2 + 1
    angles = 2.0 * np.pi * (np.outer(np.arange(half), np.arange(period)) % period) / period
    waves = np.concatenate([np.cos(angles), np.sin(angles[1 : period - half + 1])])
    waves *= np.sqrt(2.0 / period)
    waves[0] *= np.sqrt(0.5)
    if period % 2 == 0:
        waves[half - 1] *= np.sqrt(0.5)
    return waves


def _spread(blocks: NDArray[np.int64]) -> FloatArray:
    """Return the (blocks, vectors) matrix that adds up the vectors of each block."""
    return np.asarray(np.arange(int(blocks.max()) + 1)[:, None] == blocks, dtype=np.float64)


def column_power(
    matrix: Array,
    members: Array,
    *,
    block: Array | None = None,
    vectors: Array | None = None,
    period: int | None = None,
) -> Array:
    """Return the power of each column in each block, the trivial one included.

    Parameters
    ----------
    matrix : (tokens, d) array
        NumPy or torch.
    members : (m,) int array
        Rows that the basis lives on, in its order.
    block : (m,) int array, optional
        Block of each vector; needed with `vectors`.
    vectors : (m, m) array, optional
        Orthonormal columns.
    period : int, optional
        Order of the cyclic group that `members` run through.

    Returns
    -------
    (blocks, d) float64 array
        ``Σ_{j in block} (v_j · column)²``; a column's powers add up to its squared norm
        over the members.

    Raises
    ------
    ValueError
        If neither `period` nor both `vectors` and `block` are given, or `period` is not the
        number of members.
    """
    values = to_float64(matrix)[index_like(members, matrix)]
    count = values.shape[0]
    if period is not None:
        if period != count:
            raise ValueError(
                f"period is {period} but there are {count} members; a cyclic basis has one "
                "member for each element of its group"
            )
        waves = index_like(_waves(period), matrix)
        coefficients = waves @ values
        power = coefficients * coefficients
        half = period // 2 + 1
        if period > 2:
            power[1 : period - half + 1, :] += power[half:, :]
        return power[:half, :]
    if vectors is None or block is None:
        raise ValueError("give period, or vectors and the block of each vector")
    coefficients = to_float64(index_like(vectors, matrix)).T @ values
    return index_like(_spread(to_numpy(block)), matrix) @ coefficients**2


def block_power(
    matrix: Array,
    members: Array,
    *,
    block: Array | None = None,
    vectors: Array | None = None,
    period: int | None = None,
) -> Array:
    """Return the power of a matrix in each block, the trivial one included.

    For a cyclic group: ``‖Σ_x exp(-2πikx/m) A_x‖²/m`` with k and -k joined.

    Parameters
    ----------
    matrix, members, block, vectors, period
        See `column_power`.

    Returns
    -------
    (blocks,) float64 array
        Sums to the squared Frobenius norm over the members. Unchanged by a rotation of the
        columns, and by a cyclic shift of a cyclic group's members.
    """
    power = column_power(matrix, members, block=block, vectors=vectors, period=period)
    return namespace(power).sum(power, axis=1)


def power_fractions(power: Array) -> Array:
    """Return the fraction of non-trivial power in each non-trivial block.

    Parameters
    ----------
    power : (blocks, ...) array
        From `block_power` or `column_power`.

    Returns
    -------
    (blocks - 1, ...) array
        Adds up to 1 along the first axis; NaN where there is no non-trivial power.
    """
    xp = namespace(power)
    rest = power[1:, ...]
    total = xp.sum(rest, axis=0)
    # a constant column leaves rounding errors of its own square behind, not power
    real = total > 1e-24 * (total + power[0, ...])
    return xp.where(real, rest / xp.where(real, total, xp.ones_like(total)), xp.nan)


def concentration(fractions: Array) -> dict[str, float]:
    """Return how unevenly power is spread over the blocks.

    Parameters
    ----------
    fractions : (blocks,) array
        Fractions that add up to 1, from `power_fractions`.

    Returns
    -------
    dict of str to float
        ``gini``: 0 when all blocks have the same power, ``1 - 1/blocks`` when one has all.
        ``inverse_participation_ratio``: Σf². ``effective_blocks``: exp of the entropy of
        f. ``top1`` ... ``top5``: sum of the largest 1 ... 5 fractions.
    """
    values = np.sort(to_numpy(fractions).astype(np.float64))
    count = len(values)
    if not count or np.isnan(values).any():
        names = ("gini", "inverse_participation_ratio", "effective_blocks")
        return dict.fromkeys((*names, *(f"top{i}" for i in range(1, 6))), float("nan"))
    ranks = 2.0 * np.arange(1, count + 1) - count - 1.0
    positive = values[values > 0]
    result = {
        "gini": float(ranks @ values / (count * values.sum())),
        "inverse_participation_ratio": float(values @ values),
        "effective_blocks": float(np.exp(-(positive @ np.log(positive)))),
    }
    largest = np.cumsum(values[::-1])
    result.update({f"top{i}": float(largest[min(i, count) - 1]) for i in range(1, 6)})
    return result


def neuron_concentration(
    matrix: Array,
    members: Array,
    *,
    block: Array | None = None,
    vectors: Array | None = None,
    period: int | None = None,
) -> dict[str, Any]:
    """Return how close each column of a matrix is to a single block.

    The power of a whole matrix can stay flat while every neuron becomes a pure character,
    each of its own frequency.

    Parameters
    ----------
    matrix, members, block, vectors, period
        See `column_power`; columns are neurons.

    Returns
    -------
    dict
        ``neuron_ipr``: float, mean over neurons of Σf² of the neuron's own fractions.
        ``best_share``: (d,) float array, the fraction in each neuron's best block.
        ``owners``: (blocks - 1,) int array, neurons whose best block each block is.
        A neuron without non-trivial power (a dead one) has NaN and belongs to no block.
    """
    fractions = to_numpy(
        power_fractions(column_power(matrix, members, block=block, vectors=vectors, period=period))
    )
    alive = ~np.isnan(fractions).any(axis=0)
    share = np.full(fractions.shape[1], np.nan)
    owners = np.zeros(len(fractions), dtype=np.int64)
    if not alive.any() or not len(fractions):
        return {"neuron_ipr": float("nan"), "best_share": share, "owners": owners}
    fractions = fractions[:, alive]
    share[alive] = fractions.max(axis=0)
    owners += np.bincount(fractions.argmax(axis=0), minlength=len(owners))
    ipr = float(np.mean(np.einsum("kd,kd->d", fractions, fractions)))
    return {"neuron_ipr": ipr, "best_share": share, "owners": owners}


class KeyBlocks(NamedTuple):
    """Which blocks stand out of what relabelled tokens would show.

    Attributes
    ----------
    key : (blocks - 1,) bool array
        ``p_values <= alpha``.
    p_values : (blocks - 1,) float array
        Family-wise.
    """

    key: NDArray[np.bool_]
    p_values: FloatArray


def general_powers(
    gram: FloatArray, orders: NDArray[np.int64], vectors: FloatArray, block: NDArray[np.int64]
) -> FloatArray:
    """Return the block powers of relabelled rows in any basis.

    Parameters
    ----------
    gram : (m, m) float array
        Inner products of the (centred) rows.
    orders : (n, m) int array
        Permutations of the rows.
    vectors : (m, m) float array
        Orthonormal columns.
    block : (m,) int array
        Block of each column.

    Returns
    -------
    (n, blocks) float array
    """
    scale, axes = np.linalg.eigh(gram)
    kept = scale > 1e-15 * scale[-1]
    factor = axes[:, kept] * np.sqrt(scale[kept])
    spread = _spread(block).T
    powers = np.empty((len(orders), spread.shape[1]))
    for i, order in enumerate(orders):
        coefficients = vectors.T @ factor[order]
        powers[i] = np.einsum("jr,jr->j", coefficients, coefficients) @ spread
    return powers


def key_blocks(
    matrix: Array,
    members: Array,
    *,
    block: Array | None = None,
    vectors: Array | None = None,
    period: int | None = None,
    permutations: int = 999,
    alpha: float = 0.001,
    seed: int = 0,
    null_powers: FloatArray | None = None,
    relabellings: Relabellings | None = None,
) -> KeyBlocks:
    """Return the blocks whose power no relabelling of the tokens explains.

    A block's power is held against the largest power of any non-trivial block under uniform
    random relabellings of the tokens (a permutation test of the family: the total power
    is the same for all). Nothing is approximated: power depends on the rows through their
    inner products alone, so that a relabelling of m cyclic tokens costs m²/2 look-ups,
    whatever the number of columns; and those that cannot reach any block in question, by a
    bound, are not worked out (`geomdiag.metrics._relabel.Relabellings`).

    Blocks of a basis that is not cyclic may be of very different size (an irreducible
    representation of degree d has d² functions), and a large one holds much of any matrix. Power
    P in d of the m - 1 non-trivial functions is therefore compared as ``(P - μ)/σ``, with mean
    ``μ = T d/(m - 1)`` of the total T and ``σ² ∝ d (1 - d/(m - 1))``, the variance under random
    rotations. Neither depends on the labels, so that the test stays exact; where all blocks are
    of one size nothing changes. (In the cyclic group they are, but for k = m/2, whose single
    function is compared as it stands.)

    The test is sequential. A block that 10 or more of the first 99 relabellings reach gets
    ``p = (1 + #)/100`` from those; any other is held against all N: ``(1 + #)/(1 + N)``.
    The chance that p falls to or below any level is at most that level for the two stages
    together. With the defaults (N = 999, alpha = 0.001) a block is key when none of the 999
    relabellings reaches it; p-values below 0.001 cannot be told apart.

    Parameters
    ----------
    matrix, members, block, vectors, period
        See `column_power`. Rows are centred over the members first.
    permutations : int
        Number of relabellings, N.
    alpha : float
        Family-wise level.
    seed : int
        Of the relabellings: the same for the same (m, N, seed).
    null_powers : (N, blocks) float array, optional
        Powers under relabelling that are at hand, from `relabelled_powers` with the same
        seed; then `permutations` and `seed` are not used.
    relabellings : Relabellings, optional
        The same, worked out as far as it was needed: what tests of one matrix share.

    Returns
    -------
    KeyBlocks

    Raises
    ------
    ValueError
        If N is too small for any block to reach `alpha`.

    References
    ----------
    Besag & Clifford 1991, doi:10.1093/biomet/78.2.301 (sequential tests); Phipson & Smyth
    2010, doi:10.2202/1544-6115.1585 (the added one).
    """
    if null_powers is not None:
        permutations = len(null_powers)
    elif relabellings is not None:
        permutations = relabellings.count
    if (1.0 + permutations) * alpha < 1.0 - 1e-9:
        raise ValueError(
            f"{permutations} relabellings cannot show a p-value of {alpha}; "
            f"expected at least {int(np.ceil(1.0 / alpha - 1.0 - 1e-9))}"
        )
    rows = to_numpy(to_float64(matrix)[index_like(members, matrix)])
    rows = rows - rows.mean(axis=0)
    power = to_numpy(
        block_power(
            rows,
            np.arange(len(rows)),
            block=None if block is None else to_numpy(block),
            vectors=None if vectors is None else to_numpy(vectors),
            period=period,
        )
    )[1:]
    if not len(power) or np.isnan(power_fractions(np.concatenate([[0.0], power]))).any():
        return KeyBlocks(np.zeros(len(power), dtype=bool), np.ones(len(power)))

    gram = rows @ rows.T
    if period is not None and null_powers is None and relabellings is None:
        relabellings = Relabellings(gram, permutations, seed)

    def standardised(powers: FloatArray) -> FloatArray:
        """Return what powers are compared by; entries are blocks along the last axis."""
        if block is None or period is not None:
            return powers
        share = np.bincount(to_numpy(block))[1:] / (len(rows) - 1)
        spread = np.sqrt(share * (1.0 - share))
        excess = powers - share * powers.sum(axis=-1, keepdims=True)
        # A block of all functions has the same power under every relabelling.
        return np.asarray(np.divide(excess, spread, out=np.zeros_like(excess), where=spread > 0))

    def largest(first: int, last: int, level: float) -> FloatArray:
        """Return each relabelling's largest statistic of any block, where it may reach `level`."""
        if relabellings is not None:
            return np.sort(relabellings.best(1, level, first, last))
        if null_powers is not None:
            chosen = null_powers[first:last]
        else:
            orders = random_permutations(len(rows), permutations, seed)[first:last]
            chosen = general_powers(gram, orders, to_numpy(vectors), to_numpy(block))
        return np.sort(standardised(chosen[:, 1:]).max(axis=1))

    found = standardised(power)
    # Ties are meant up to rounding: of the power, or of the total that a mean was taken from.
    levels = found - _EQUAL * (power if found is power else power.sum())

    def reached(maxima: FloatArray) -> NDArray[np.int64]:
        return len(maxima) - np.searchsorted(maxima, levels, side="left")

    stage = min(_FIRST, permutations)
    count = reached(largest(0, stage, 0.0))
    p_values: FloatArray = np.asarray((1.0 + count) / (1.0 + stage), dtype=np.float64)
    open_ = count < _ENOUGH
    if open_.any() and permutations > stage:
        level = float(levels[open_].min())
        count = count + reached(largest(stage, permutations, level))
        p_values = np.where(open_, (1.0 + count) / (1.0 + permutations), p_values)
    return KeyBlocks(p_values <= alpha * (1.0 + 1e-9), p_values)
