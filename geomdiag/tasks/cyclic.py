"""Cyclic groups: their harmonic basis and cycle metric, and the units of a prime modulus."""

from __future__ import annotations

import math

import numpy as np

from geomdiag.tasks.contract import FloatArray, HarmonicBasis, IntArray

__all__ = [
    "cycle_distances",
    "cyclic_basis",
    "discrete_logarithms",
    "is_prime",
    "primitive_root",
]


def is_prime(n: int) -> bool:
    """Return whether `n` is a prime number (trial division)."""
    if n < 4:
        return n >= 2
    if n % 2 == 0:
        return False
    return all(n % divisor for divisor in range(3, math.isqrt(n) + 1, 2))


def primitive_root(p: int) -> int:
    """Return the smallest generator of the multiplicative group modulo a prime.

    Parameters
    ----------
    p : int
        A prime; for ``p = 2`` the group is trivial and its only element, 1, is returned.

    Returns
    -------
    int
        Smallest ``g ≥ 1`` whose powers run through 1 ... p-1.
    """
    order = p - 1
    factors = [q for q in range(2, order + 1) if order % q == 0 and is_prime(q)]
    return next(g for g in range(1, p) if all(pow(g, order // q, p) != 1 for q in factors))


def discrete_logarithms(p: int) -> tuple[IntArray, IntArray]:
    """Return powers and logarithms to the smallest primitive root modulo a prime.

    Parameters
    ----------
    p : int
        A prime.

    Returns
    -------
    powers : (p - 1,) int array
        ``powers[j] = g**j mod p``.
    logarithms : (p,) int array
        ``powers[logarithms[x]] = x`` for the units; -1 at 0, which has no logarithm.
    """
    g = primitive_root(p)
    powers = np.empty(p - 1, dtype=np.int64)
    value = 1
    for exponent in range(p - 1):
        powers[exponent] = value
        value = value * g % p
    logarithms = np.full(p, -1, dtype=np.int64)
    logarithms[powers] = np.arange(p - 1)
    return powers, logarithms


def cyclic_basis(members: IntArray) -> HarmonicBasis:
    """Return the real characters of a cyclic group, conjugate pairs joined in blocks.

    Block ``k`` holds ``cos`` and ``sin`` of ``2πkj/m`` over the position ``j`` in `members`;
    block 0 and, for even ``m``, block ``m/2`` hold one vector each.

    Parameters
    ----------
    members : (m,) int array
        What stands for the group's elements 0 ... m-1, in that order.

    Returns
    -------
    HarmonicBasis
        With ``period = m`` and blocks ``"k=0"`` ... ``"k=⌊m/2⌋"``.
    """
    m = len(members)
    position = np.arange(m)
    columns: list[FloatArray] = [np.full(m, 1 / math.sqrt(m))]
    block = [0]
    for k in range(1, m // 2 + 1):
        # The angle is reduced in integers first: exact however large k·j is.
        angle = 2 * np.pi * (k * position % m) / m
        if 2 * k == m:
            columns.append(np.where(position % 2 == 0, 1.0, -1.0) / math.sqrt(m))
            block.append(k)
        else:
            columns += [np.cos(angle) * math.sqrt(2 / m), np.sin(angle) * math.sqrt(2 / m)]
            block += [k, k]
    return HarmonicBasis(
        members=np.asarray(members, dtype=np.int64),
        labels=tuple(f"k={k}" for k in range(m // 2 + 1)),
        block=np.asarray(block, dtype=np.int64),
        vectors=np.stack(columns, axis=1),
        period=m,
        coordinates=np.arange(m // 2 + 1, dtype=np.int64)[:, None],
        periods=(m,),
    )


def cycle_distances(position: IntArray, m: int) -> FloatArray:
    """Return distances along a cycle of `m` vertices.

    Parameters
    ----------
    position : (n,) int array
        Vertex (modulo `m`) at which each token stands; -1 for tokens that are on none.
    m : int
        Length of the cycle.

    Returns
    -------
    (n, n) float array
        Edges of the shorter way round. A token on no vertex is one edge further from every
        other token than any two tokens on the cycle are from each other, which is the
        smallest whole distance that singles it out and keeps the triangle inequality.
    """
    ahead = (position[:, None] - position[None, :]) % m
    distance: FloatArray = np.minimum(ahead, m - ahead).astype(np.float64)
    outside = position < 0
    if outside.any():
        far = m // 2 + 1
        distance[outside, :] = far
        distance[:, outside] = far
        np.fill_diagonal(distance, 0.0)
    return distance
