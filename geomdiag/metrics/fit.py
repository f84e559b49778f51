"""How well logits fit the right answers: loss, accuracy, scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, is_torch, namespace, to_float64, to_numpy
from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics.divergence import CLAMP

__all__ = ["correct", "cross_entropy", "log_softmax", "logit_scale", "negative_log_likelihood"]

#: Rows worked on at once: few enough that they stay in the cache.
_BLOCK = 512


def _exceed(logits: NDArray[Any], work: Buffers) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows less their maximum, in scratch memory, and log Σ exp of these, (rows,).

    The largest class contributes exactly 1 to the sum: left out of it, ``log1p`` of the
    others keeps a loss of 1e-12 that ``log`` of the sum would round away.
    """
    rows, classes = np.arange(len(logits)), logits.shape[1]
    kind = logits.dtype if logits.dtype in (np.float32, np.float64) else np.float64
    largest = logits.argmax(axis=1)
    block = work("block", *logits.shape, dtype=kind)
    np.subtract(logits, logits[rows, largest][:, None], out=block, dtype=kind)
    powers = work("powers", *block.shape, dtype=block.dtype)
    np.maximum(block, CLAMP, out=powers)
    np.exp(powers, out=powers)
    powers[rows, largest] = block[rows, largest]  # 0, or NaN
    return block, np.log1p(powers @ np.ones(classes, dtype=block.dtype))


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis, in the logits' own type.

    Parameters
    ----------
    logits : (n, classes) array
        NumPy or torch; a torch tensor keeps its gradient and its device. With NumPy a loss of
        1e-12 survives in single precision.

    Returns
    -------
    (n, classes) array
        Nats. Rows that hold a NaN are NaN.
    """
    if is_torch(logits):
        return logits.log_softmax(-1)
    logits = np.asarray(logits)
    if not np.issubdtype(logits.dtype, np.floating):
        logits = logits.astype(np.float64)
    result = np.empty(logits.shape, dtype=logits.dtype)
    work = Buffers()
    with np.errstate(invalid="ignore"):
        for start in range(0, len(logits), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block, excess = _exceed(logits[rows], work)
            np.subtract(block, excess[:, None], out=result[rows], casting="same_kind")
    return result


def negative_log_likelihood(log_p: Array, answers: Array) -> Array:
    """Return the loss of each input from log-probabilities that are at hand.

    Parameters
    ----------
    log_p : (n, classes) array
        Log-probabilities.
    answers : (n,) int array
        Right class of each input.

    Returns
    -------
    (n,) float64 array
        Nats.
    """
    xp = namespace(log_p)
    answers = xp.astype(index_like(answers, log_p), xp.int64)
    return -to_float64(xp.take_along_axis(log_p, answers[:, None], axis=1)[:, 0])


def cross_entropy(logits: Array, answers: Array) -> Array:
    """Return the cross-entropy of each input.

    Parameters
    ----------
    logits : (n, classes) array
        NumPy or torch; with torch the result is differentiable.
    answers : (n,) int array
        Right class of each input.

    Returns
    -------
    (n,) float64 array
        Nats.
    """
    if is_torch(logits):
        return negative_log_likelihood(to_float64(logits).log_softmax(-1), answers)
    logits = np.asarray(logits)
    answers = to_numpy(answers)
    loss = np.empty(len(logits))
    work = Buffers()
    with np.errstate(invalid="ignore"):
        for start in range(0, len(logits), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block, excess = _exceed(logits[rows], work)
            loss[rows] = excess - np.take_along_axis(block, answers[rows, None], axis=1)[:, 0]
    return loss


def correct(logits: Array, answers: Array) -> Array:
    """Return which inputs are answered right.

    Parameters
    ----------
    logits : (n, classes) array
        Logits or log-probabilities, NumPy or torch.
    answers : (n,) int array
        Right class of each input.

    Returns
    -------
    (n,) bool array
        Whether the first largest logit is the answer's. A tie is wrong unless the answer
        comes first; a row whose largest logit is NaN is wrong.
    """
    xp = namespace(logits)
    answers = index_like(answers, logits)
    # `argmax` does not promise which of several maxima it names: look for the first.
    top = xp.max(logits, axis=1)
    right = xp.take_along_axis(logits, xp.astype(answers, xp.int64)[:, None], axis=1)[:, 0]
    won = right == top
    first = xp.argmax(logits, axis=1) == answers
    if bool(xp.any(won != first)):
        tied = won & ~first
        earlier = xp.arange(logits.shape[1], device=device(logits))[None, :] < answers[:, None]
        beaten = xp.any((logits == top[:, None]) & earlier, axis=1)
        return (first & won) | (tied & ~beaten)
    return won


def logit_scale(logits: Array) -> float:
    """Return the root mean square of the logits after centring each input over its classes.

    Parameters
    ----------
    logits : (n, classes) array
        NumPy or torch.

    Returns
    -------
    float
        In units of the logits; unchanged by a constant added to all classes of an input.
    """
    logits = to_numpy(logits)
    rows, classes = logits.shape
    total = 0.0
    work = Buffers()
    for start in range(0, rows, _BLOCK):
        block = work.rows(logits, slice(start, start + _BLOCK), "block")
        block -= (block @ np.full(classes, 1.0 / classes))[:, None]
        total += float(np.vdot(block, block))
    return float(np.sqrt(total / (rows * classes)))
