"""Circles that single frequencies trace in a matrix of tokens (METHOD, section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, is_torch, namespace, to_numpy
from geomdiag.metrics._checks import finite_matrix

__all__ = ["CircleFit", "circle_fit", "pizza_circularity"]


class CircleFit(NamedTuple):
    """Shape of the curve of each frequency; every field is a (frequencies,) float array.

    Attributes
    ----------
    axis_ratio : array
        Minor over major semi-axis of the ellipse, in [0, 1].
    in_plane_share : array
        Share of the tokens' variance inside the ellipse's plane that the ellipse
        explains, in [0, 1]. The plane is fitted to the tokens: with as many columns as
        tokens, noise gives about one half, not 0.
    phase_error : array
        Root mean square angle, in radians, between the tokens and where the frequency
        puts them. NaN where the ellipse is a line.
    circularity : array
        ``axis_ratio * in_plane_share``.
    """

    axis_ratio: Array
    in_plane_share: Array
    phase_error: Array
    circularity: Array


def _members(matrix: Array, members: Array | None) -> Array:
    """Return the centred rows of the group's members, in the group's order."""
    matrix = finite_matrix(matrix)
    xp = namespace(matrix)
    if members is not None:
        matrix = matrix[index_like(members, matrix)]
    rows = matrix - xp.mean(matrix, axis=0, keepdims=True)
    # Equal rows leave a residue of the mean's rounding: that is no shape.
    residue = 4 * float(xp.finfo(xp.float64).eps) * xp.sqrt(xp.sum(matrix * matrix))
    return xp.where(xp.sqrt(xp.sum(rows * rows)) > residue, rows, 0.0 * rows)


def circle_fit(
    matrix: Array,
    frequencies: Sequence[int] | Array | None = None,
    *,
    members: Array | None = None,
    phases: Array | None = None,
) -> CircleFit:
    """Return how close each frequency's component of the tokens is to a circle.

    With m tokens in the order of a cyclic group and centred rows ``A_x``, the component of
    frequency k is ``u cos(2πkx/m) + v sin(2πkx/m)``, ``u = 2/m Σ cos(2πkx/m) A_x`` and v
    likewise: an ellipse in the plane of u and v, the image of the unit circle under the
    map ``M = [u v]``. Its semi-axes are the singular values of M. For the phase error the
    tokens are projected on the plane and the map is undone (M⁺): an ellipse is as good as
    a circle there, since its flattening is what `axis_ratio` tells.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    frequencies : sequence of int
        Frequencies k; they stand for ±k modulo m. Needed unless `phases` are given.
    members : (m,) int array, optional
        Rows of the group's elements in the group's order (for a multiplication, the units
        in the order of their discrete logarithm). Default: all rows as they stand.
    phases : (frequencies, m) array, optional
        Angles, in radians, of characters at the members, in place of ``2πkx/m``: for
        finite abelian groups that are not cyclic.

    Returns
    -------
    CircleFit
        All NaN for characters that are real (k = 0 and, at even m, k = m/2), which trace no
        circle; and where the
        matrix has no power at k. Invariant under rotation, translation and scale of the
        columns and under translations of the group.

    Raises
    ------
    ValueError
        If the matrix is empty, not two-dimensional or not finite, or neither frequencies
        nor as many phases as members are given.
    """
    rows = _members(matrix, members)
    xp = namespace(rows)
    order = rows.shape[0]
    angles, proper = _angles(frequencies, phases, order)
    cosine, sine, angle, usable = (
        index_like(table, rows) for table in (np.cos(angles), np.sin(angles), angles, proper)
    )

    u, v = cosine @ rows * (2 / order), sine @ rows * (2 / order)
    # Principal axes of the ellipse: M R, where R turns (u, v) by the angle that makes the
    # two columns orthogonal.
    uu, vv, uv = (xp.sum(a * b, axis=1) for a, b in ((u, u), (v, v), (u, v)))
    turn = xp.atan2(2 * uv, uu - vv) / 2
    c, s = xp.cos(turn)[:, None], xp.sin(turn)[:, None]
    major, minor = c * u + s * v, c * v - s * u
    long, short = (xp.sqrt(xp.sum(axis * axis, axis=1)) for axis in (major, minor))

    size = xp.sqrt(xp.sum(rows * rows) / order)
    present = usable & (long > 1e-13 * size)
    nan = xp.full_like(long, math.nan)
    one = xp.ones_like(long)
    ratio = xp.clip(short / xp.where(present, long, one), 0.0, 1.0)
    plane = present & (short > 1e-13 * long)
    major = major / xp.where(present, long, one)[:, None]
    minor = minor * xp.where(plane, 1 / xp.where(plane, short, one), 0 * one)[:, None]

    along, across = major @ rows.T, minor @ rows.T  # (frequencies, tokens), in the plane
    inside = xp.sum(along * along + across * across, axis=1)
    explained = (long * long + short * short) * (order / 2)
    share = xp.clip(explained / xp.where(present, inside, one), 0.0, 1.0)

    # Undo the map: coordinates in units of the semi-axes, turned back to (cos, sin).
    along = along / xp.where(present, long, one)[:, None]
    across = across / xp.where(plane, short, one)[:, None]
    seen = xp.atan2(s * along + c * across, c * along - s * across)
    error = seen - angle
    error = error - 2 * np.pi * xp.round(error / (2 * np.pi))
    rms = xp.sqrt(xp.mean(error * error, axis=1))

    ratio, share = (xp.where(present, value, nan) for value in (ratio, share))
    return CircleFit(ratio, share, xp.where(plane, rms, nan), ratio * share)


def _angles(
    frequencies: Sequence[int] | Array | None, phases: Array | None, order: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the angles of the characters, (n, m), and which of them are not real."""
    if phases is not None:
        angles = np.asarray(to_numpy(phases), dtype=np.float64)
        if angles.ndim != 2 or angles.shape[1] != order:
            raise ValueError(
                f"phases have shape {angles.shape}; expected one row a character and a column for "
                f"each of the {order} members"
            )
        return angles, np.abs(np.sin(angles)).max(axis=1, initial=0.0) > 1e-9
    if frequencies is None:
        raise ValueError("circle_fit needs frequencies or phases")
    wanted = np.asarray([int(k) for k in frequencies], dtype=np.int64)
    angles = 2 * np.pi * (np.outer(wanted, np.arange(order)) % order) / order
    return angles, (2 * wanted) % order != 0


def pizza_circularity(
    matrix: Array,
    *,
    components: int = 4,
    members: Array | None = None,
    phases: Array | None = None,
    eigen: tuple[Array, Array] | None = None,
) -> float:
    """Return the circularity of Zhong et al.: how pure the leading components' waves are.

    For each of the leading principal components of the centred rows, the largest share of
    its power at one frequency; then the mean over the components.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    components : int
        Number of principal components, at least 1.
    members, phases
        As in `circle_fit`; phases of all characters, one of each pair χ, χ̄.
    eigen : (m,) and (m, m) array, optional
        Eigenvalues, largest first, and eigenvectors (columns) of the Gram matrix of the
        members' centred rows, where they are at hand.

    Returns
    -------
    float
        In (0, 1]; NaN where there is no variance or all characters are real. Components
        without variance are left out of the mean. Where two frequencies have equal variance
        their components mix, and the value depends on rounding.

    Raises
    ------
    ValueError
        If `components` is below 1, or as `circle_fit`.

    References
    ----------
    Zhong, Liu, Tegmark & Andreas 2023, arXiv 2306.17844.
    """
    if components < 1:
        raise ValueError(f"components is {components}; expected at least 1")
    rows = _members(matrix, members)
    xp = namespace(rows)
    order = rows.shape[0]
    if order < 3:
        return math.nan
    count = min(components, order)
    if eigen is None:
        values, vectors = _largest_components(rows @ rows.T, count)
    else:
        values, vectors = eigen[0][:count], eigen[1][:, :count]
    if float(values[0]) <= 0 or not bool(xp.any(rows != 0)):
        return math.nan
    leading = [i for i in range(count) if float(values[i]) > 1e-12 * float(values[0])]
    chosen = xp.stack([vectors[:, i] for i in leading])
    if phases is None:
        power = xp.abs(xp.fft.fft(chosen, axis=1)[:, 1 : (order - 1) // 2 + 1]) ** 2
    else:
        angles, proper = _angles(None, phases, order)
        if not proper.any():
            return math.nan
        cosine, sine = (index_like(f(angles[proper]).T, rows) for f in (np.cos, np.sin))
        power = (chosen @ cosine) ** 2 + (chosen @ sine) ** 2
    return float(xp.mean(2 * xp.max(power, axis=1)) / order)


def _largest_components(gram: Array, count: int) -> tuple[Array, Array]:
    """Return the largest eigenvalues, in descending order, and their eigenvectors (columns)."""
    if is_torch(gram):
        xp = namespace(gram)
        values, vectors = xp.linalg.eigh(gram)
        return xp.flip(values)[:count], xp.flip(vectors, axis=1)[:, :count]
    from scipy.linalg import eigh

    wanted = len(gram) - count, len(gram) - 1
    values, vectors = eigh(gram, subset_by_index=wanted, check_finite=False)
    return values[::-1], vectors[:, ::-1]
