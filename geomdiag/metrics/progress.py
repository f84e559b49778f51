"""Progress measures: what the logits keep, and lose, without a network's key blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, to_numpy
from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics._group import block_characters, quotients
from geomdiag.metrics.fit import cross_entropy
from geomdiag.metrics.group_logits import result_rows

__all__ = [
    "ProgressLosses",
    "distance_irrelevance",
    "excluded_loss",
    "gradient_symmetricity",
    "progress_losses",
    "restricted_loss",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROWS = 512  # rows worked on at once


class ProgressLosses(NamedTuple):
    """Losses of edited logits, in nats.

    Attributes
    ----------
    restricted : float
        With nothing but the key blocks; over all inputs of the group.
    excluded : float
        Without the key blocks; over the train inputs of the group.
    """

    restricted: float
    excluded: float


def progress_losses(
    logits: Array,
    key: Iterable[int],
    *,
    order: int,
    inputs: Array,
    result: Array,
    classes: Array,
    train: Array | None = None,
    means: Array | None = None,
    table: Array | None = None,
    characters: Array | None = None,
    degrees: Array | None = None,
) -> ProgressLosses:
    """Return the restricted and the excluded loss, from logits alone.

    Every class's logit is a function of the input. Its component of frequency k is its
    orthogonal projection, over all inputs of the group, on ``cos(2πk r/m)`` and
    ``sin(2πk r/m)`` of the element r that the input composes to (r = x + y for modular
    addition: ``cos(w_k(x + y))``, ``sin(w_k(x + y))``). In any finite group these are the
    matrix coefficients of an irreducible representation ρ of degree d (and of its complex
    conjugate), and the projection of a function f of r is ``d/m Σ_h χ(r h⁻¹) f(h)``. So:

    - restricted logits = mean over the inputs + components of the key blocks,
    - excluded logits = logits − components of the key blocks.

    The loss is the mean cross-entropy against the right class, over all classes. Written in
    the group's elements it holds for subtraction and multiplication as for addition.

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits.
    key : iterable of int
        Key blocks; in the cyclic group frequencies, 1 ... m // 2.
    order : int
        Order m of the group.
    inputs : (q,) int array
        Rows of the logits that take part.
    result : (q,) int array
        Element that each of those inputs composes to.
    classes : (m,) int array
        Class that stands for each element.
    train : (n,) bool array, optional
        Which inputs were trained on, for the excluded loss. None: all of them.
    means : (m, classes) array, optional
        Mean logits of the inputs that compose to each element, where they are at hand; a
        constant added to all classes of an input, as by centring, changes nothing.
    table : (m, m) int array, optional
        Product of two elements; left out, the group is cyclic (addition modulo m).
    characters : (blocks, m) array, optional
        Real character of each block (χ, or χ + χ̄), the trivial one first; with `table`.
    degrees : (blocks,) int array, optional
        Degree d of each block's representation; with `table`. Default: all 1.

    Returns
    -------
    ProgressLosses
        `excluded` is NaN where no input of the group was trained on.

    Raises
    ------
    ValueError
        If a key block is out of range, or the elements are not results equally often.

    References
    ----------
    Nanda et al. 2023, arXiv 2301.05217, section 5; for groups Chughtai et al. 2023, arXiv
    2302.03025, whose own losses keep the characters alone: see
    `geomdiag.metrics.irreps.character_losses`.
    """
    values = to_numpy(logits)
    blocks = sorted({int(k) for k in key})
    averages = np.empty((order, values.shape[1]))
    work = Buffers()
    if means is not None:
        averages[:] = to_numpy(means)
    else:
        for element, group in enumerate(result_rows(order, inputs, result)):
            block = work.rows(values, group, "block")
            averages[element] = np.full(len(group), 1.0 / len(group)) @ block
    component = _projector(blocks, order, table, characters, degrees) @ averages
    answers = to_numpy(classes).astype(np.int64)
    restricted = float(np.mean(cross_entropy(component + averages.mean(axis=0), answers)))

    rows, elements = to_numpy(inputs).astype(np.int64), to_numpy(result).astype(np.int64)
    if train is not None:
        trained = to_numpy(train).astype(bool)[rows]
        rows, elements = rows[trained], elements[trained]
    excluded = 0.0
    if values.dtype == np.float32:  # exponentials at half the price, as exact as the logits are
        component = component.astype(np.float32)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        edited = work.rows(values, rows[part], "block", double=False)
        edited -= work.rows(component, elements[part], "component", double=False)
        excluded += float(np.sum(cross_entropy(edited, answers[elements[part]])))
    return ProgressLosses(restricted, excluded / len(rows) if len(rows) else float("nan"))


def _projector(
    blocks: Sequence[int],
    order: int,
    table: Array | None,
    characters: Array | None,
    degrees: Array | None,
) -> FloatArray:
    """Return the orthogonal projection of functions on the group onto some blocks, (m, m)."""
    if table is not None and characters is None:
        raise ValueError("a group given by its table also needs its characters")
    waves = block_characters(order, characters)
    if blocks and (blocks[0] < 1 or blocks[-1] >= len(waves)):
        what = "frequencies" if characters is None else "blocks"
        raise ValueError(f"key {what} {blocks}; expected numbers from 1 to {len(waves) - 1}")
    if characters is None:  # χ + χ̄, where they differ, is twice the cosine
        weights = np.where(2 * np.arange(len(waves)) % order == 0, 1.0, 2.0)
    else:
        weights = np.ones(len(waves)) if degrees is None else to_numpy(degrees).astype(np.float64)
    kernel = weights[blocks] @ waves[blocks] / order
    return np.asarray(kernel[quotients(order, table)])


def restricted_loss(logits: Array, key: Iterable[int], **group: Any) -> float:
    """Return the loss, over all inputs, of the mean logits and their key components alone.

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits.
    key : iterable of int
        Key blocks; in the cyclic group frequencies, 1 ... m // 2.
    **group
        The group, as `geomdiag.metrics.progress.progress_losses` takes it.

    Returns
    -------
    float
        Nats.

    Raises
    ------
    ValueError
        As there.

    References
    ----------
    Nanda et al. 2023, arXiv 2301.05217.
    """
    none = np.zeros(len(logits), dtype=bool)
    return progress_losses(logits, key, **{**group, "train": none}).restricted


def excluded_loss(logits: Array, key: Iterable[int], **group: Any) -> float:
    """Return the loss, over the train inputs, of the logits without their key components.

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits.
    key : iterable of int
        Key blocks; in the cyclic group frequencies, 1 ... m // 2.
    **group
        The group, as `geomdiag.metrics.progress.progress_losses` takes it, ``train`` included.

    Returns
    -------
    float
        Nats; NaN where no input of the group was trained on.

    Raises
    ------
    ValueError
        As there.

    References
    ----------
    Nanda et al. 2023, arXiv 2301.05217.
    """
    return progress_losses(logits, key, **group).excluded


def distance_irrelevance(
    logits: Array,
    *,
    order: int,
    inputs: Array,
    left: Array,
    right: Array,
    result: Array,
    classes: Array,
) -> float:
    """Return how little the right answer's logit depends on the distance of the operands.

    For cyclic groups, whose elements have a distance. With ``C[d, i]`` the logit of the right
    class for operands (i, i + d): the mean over d of the standard deviation over i, over the
    standard deviation of all of C. Near 0: the logit is a function of the distance alone
    (Pizza); near 1: it does not depend on it (Clock).

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits.
    order, inputs, left, right, result, classes
        See `geomdiag.metrics.group_logits`.

    Returns
    -------
    float
        NaN where all those logits are equal.

    Raises
    ------
    ValueError
        If the inputs are not all pairs of elements.

    References
    ----------
    Zhong et al. 2023, arXiv 2306.17844.
    """
    values = to_numpy(logits)
    first, second = to_numpy(left).astype(np.int64), to_numpy(right).astype(np.int64)
    answers = to_numpy(classes).astype(np.int64)[to_numpy(result).astype(np.int64)]
    table = np.full((order, order), np.nan)
    placed = np.zeros((order, order), dtype=bool)
    placed[(second - first) % order, first] = True
    if len(first) != order * order or not placed.all():
        raise ValueError(
            f"{len(first)} inputs; expected the {order * order} pairs of elements, each once"
        )
    table[(second - first) % order, first] = values[to_numpy(inputs).astype(np.int64), answers]
    spread = float(table.std())
    return float(table.std(axis=1).mean()) / spread if spread > 0.0 else float("nan")


def gradient_symmetricity(
    logits_from_embeddings: Callable[[Sequence[Any]], Any],
    embedding: Array,
    embedding_right: Array | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    rows: int = 4096,
) -> float:
    """Return how alike the gradients of a logit by its two operands' embeddings are.

    The mean, over operands a, b and classes c, of the cosine between ``∂logit_c/∂E_a`` and
    ``∂logit_c/∂E_b``: near 1 for a network that works on the sum of the embeddings (Pizza),
    well below for one that multiplies them (Clock). Triples with a zero gradient, where the
    cosine has no meaning, are left out.

    Parameters
    ----------
    logits_from_embeddings : callable
        ``f([left, right])`` with two (m, d) torch tensors gives (m, classes) logits,
        differentiably, row by row.
    embedding : (tokens, d) array
        Token embedding (of the left operand).
    embedding_right : (tokens, d) array, optional
        That of the right operand, where it has its own. Default: the same.
    samples : int, optional
        Number of triples, drawn uniformly with replacement: one backward pass. Default: all
        of them, one backward pass a class.
    seed : int
        Of the sample.
    rows : int
        Operand pairs run at once.

    Returns
    -------
    float
        Between -1 and 1; NaN where every gradient is zero.

    References
    ----------
    Zhong et al. 2023, arXiv 2306.17844.
    """
    import torch

    first = torch.as_tensor(embedding).detach()
    second = first if embedding_right is None else torch.as_tensor(embedding_right).detach()
    total, count = 0.0, 0

    def add(left: Any, right: Any) -> None:
        nonlocal total, count
        left, right = left.detach().double(), right.detach().double()
        norm = left.norm(dim=-1) * right.norm(dim=-1)
        real = norm > 0
        total += float(((left * right).sum(dim=-1)[real] / norm[real]).sum())
        count += int(real.sum())

    def operands(a: Any, b: Any) -> list[Any]:
        return [
            table[torch.as_tensor(index, device=table.device)].clone().requires_grad_()
            for table, index in ((first, a), (second, b))
        ]

    def gradients(value: Any, ends: list[Any], retain_graph: bool = False) -> Any:
        return torch.autograd.grad(
            value, ends, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )

    with torch.enable_grad():
        if samples is None:
            a, b = (grid.reshape(-1) for grid in np.indices((len(first), len(second))))
            for start in range(0, len(a), rows):
                part = slice(start, start + rows)
                ends = operands(a[part], b[part])
                logits = logits_from_embeddings(ends)
                for c in range(logits.shape[1]):
                    keep = c + 1 < logits.shape[1]
                    add(*gradients(logits[:, c].sum(), ends, retain_graph=keep))
        else:
            rng = np.random.default_rng(seed)
            a, b = rng.integers(len(first), size=samples), rng.integers(len(second), size=samples)
            chance = rng.random(samples)
            for start in range(0, samples, rows):
                part = slice(start, start + rows)
                ends = operands(a[part], b[part])
                logits = logits_from_embeddings(ends)
                chosen = (chance[part] * logits.shape[1]).astype(np.int64)
                picked = logits.gather(1, torch.as_tensor(chosen, device=logits.device)[:, None])
                add(*gradients(picked.sum(), ends))
    return total / count if count else float("nan")
