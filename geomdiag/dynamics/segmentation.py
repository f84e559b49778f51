"""Where a series changes its course: exact least-squares pieces, how many, and how surely.

Pure NumPy; nothing here knows what a series measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomdiag.errors import GeomdiagError

__all__ = ["Segmentation", "segment_series"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Model = Literal["constant", "linear", "continuous"]

#: Coefficients that a piece adds. The first of "continuous" pieces has one more, its level.
COEFFICIENTS = {"constant": 1, "linear": 2, "continuous": 1}
#: Pieces that meet are searched by enumeration, whose cost grows with the power of their breaks.
MAX_HINGES = 3
#: An estimated autocorrelation above this cannot be told from a random walk.
MAX_CORRELATION = 0.98
#: Residuals below this share of the largest value are rounding.
ROUNDING = 1e-9
#: Replicates that are fitted in one go hold at most this many numbers in each array.
_BATCH = 1 << 18
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Segmentation:
    """A series cut into pieces, each a level or a line.

    Attributes
    ----------
    x, y : (n,) float array
        The series.
    model : {"constant", "linear", "continuous"}
        What the pieces are.
    min_size : int
        Fewest points of a piece.
    breaks : tuple of int
        Index of the first point of every piece but the first; for continuous pieces it is the last
        point of the piece before as well.
    fitted : (n,) float array
        The pieces' values.
    rss : (max_breaks + 1,) float array
        Least sum of squares for 0, 1, ... breaks.
    criterion : (max_breaks + 1,) float array
        What the number of breaks was chosen by; the smallest wins.
    """

    x: FloatArray
    y: FloatArray
    model: Model
    min_size: int
    breaks: tuple[int, ...]
    fitted: FloatArray = field(repr=False)
    rss: FloatArray = field(repr=False)
    criterion: FloatArray = field(repr=False)

    @property
    def starts(self) -> tuple[int, ...]:
        """Index of the first point of every piece."""
        return (0, *self.breaks)

    def p_value(
        self,
        null: Model | None = None,
        *,
        breaks: int = 1,
        samples: int = 199,
        seed: int = 0,
    ) -> float:
        """Return how often noise alone is split as well as this series, the split searched.

        The statistic is the share of the sum of squares that the best break saves. It is
        compared with that of series simulated under the hypothesis of no break: the fit
        without break plus first-order autoregressive noise, its correlation and innovations
        estimated from that fit's residuals. Every simulated series is searched for its own
        best break, so that the search is paid for. A slow drift can be autocorrelated noise:
        the test then errs on the side of no break.

        Parameters
        ----------
        null : {"constant", "linear"}, optional
            What the series is without a break; by default one piece of its `model`.
        breaks : int
            Number of breaks whose best fit is tried, at most as many as were looked for. Fixed
            beforehand: the number that this series suggests would not be a fair test.
        samples : int
            Simulated series.
        seed : int

        Returns
        -------
        float
            ``(1 + number as large) / (1 + samples)``; 1 where no break is possible.

        References
        ----------
        Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.4.
        """
        null = null or self.model
        flat = _fit(self.x, self.y[None], _nowhere(1), null)[0]
        if len(self.rss) < 2 or np.ptp(self.y - flat) <= 1e-12 * np.ptp(self.y):
            return 1.0
        series = flat + _noise(self.y - flat, _used(null, 0), samples, seed)
        count = min(breaks, len(self.rss) - 1)
        rss, _ = _search(self.x, series, count, self.model, self.min_size)
        whole = series - _fit(self.x, series, _nowhere(samples), null)
        left = rss[count] / np.maximum((whole**2).sum(axis=1), _TINY)
        reached = left <= self.rss[count] / float(((self.y - flat) ** 2).sum())
        return float((1 + reached.sum()) / (1 + samples))

    def replicates(self, samples: int = 199, seed: int = 0) -> tuple[IntArray, FloatArray]:
        """Return what the breaks would have been under other noise of the same kind.

        The fit plus autoregressive noise, made from its residuals, is segmented again with
        the same number of breaks.

        Parameters
        ----------
        samples : int
        seed : int

        Returns
        -------
        breaks : (samples, number of breaks) int array
            As `breaks`, for each replicate.
        fitted : (samples, n) float array
            The pieces' values.
        """
        count = len(self.breaks)
        noise = _noise(self.y - self.fitted, _used(self.model, count), samples, seed)
        series = self.fitted + noise
        _, breaks = _search(self.x, series, count, self.model, self.min_size)
        return breaks, _fit(self.x, series, breaks, self.model)

    def intervals(self, level: float = 0.9, samples: int = 199, seed: int = 0) -> IntArray:
        """Return between which points each break lies, as percentiles of `replicates`.

        Parameters
        ----------
        level : float
            Probability, in (0, 1).
        samples, seed : int

        Returns
        -------
        (number of breaks, 2) int array
            Index of the last point before and of the first point after the break: between two
            neighbouring points nothing is known.
        """
        breaks, _ = self.replicates(samples, seed)
        tail = (1 - level) / 2
        low, high = np.quantile(breaks, [tail, 1 - tail], axis=0, method="nearest")
        here = np.array(self.breaks, dtype=np.int64)
        after = 1 if self.model == "continuous" else 0
        return np.stack([np.minimum(low, here) - 1, np.maximum(high, here) + after], axis=1)


def segment_series(
    x: ArrayLike,
    y: ArrayLike,
    *,
    model: Model = "linear",
    max_breaks: int = 5,
    breaks: int | None = None,
    min_size: int | None = None,
    resolution: float = 0.0,
) -> Segmentation:
    """Cut a series into the pieces that fit it best, as many as it bears out.

    For every number of breaks the least-squares pieces are found exactly. Pieces that need not
    meet are found by dynamic programming over all cuts: O(max_breaks · n²) time and
    O(max_breaks · n) memory. Lines that meet share their ends, so that no such programme is
    exact; all places of their (at most three) breaks are tried: O(n^max_breaks), meant for
    some hundred points.

    The number of breaks is that with the smallest modified Bayesian information criterion for
    first-order autoregressive noise,
    ``n log(s² (1 − r²)) − log(1 − r²) + 2 k log n + c Σ log n_i``: s² the mean square of the
    residuals and r their lag-one correlation, k breaks, c coefficients that a piece adds, n_i
    points of piece i. A break's place costs as much as two coefficients, because it was searched
    for. With fewer than some forty points, or a correlation above 0.8, it finds breaks in noise
    alone: look at `Segmentation.p_value` before believing in any.

    Parameters
    ----------
    x : (n,) array
        Strictly increasing, at any spacing.
    y : (n,) array
        Values; no NaN.
    model : {"constant", "linear", "continuous"}
        Levels; lines; lines that meet, with at most 3 breaks.
    max_breaks : int
        Most breaks that are looked for. Fewer where a series is too short for them: each piece
        must have `min_size` points, and all pieces together at most two thirds as many coefficients
        and places as there are points.
    breaks : int, optional
        Exactly so many breaks, whatever the criterion says.
    min_size : int, optional
        Fewest points of a piece, of lines that meet with both ends; by default 2 for levels, 3 for
        lines.
    resolution : float
        Standard deviation below which residuals are not believed, in units of y: that of
        rounding, say. Without it a series that pieces fit perfectly would be cut ever further.

    Returns
    -------
    Segmentation

    Raises
    ------
    GeomdiagError
        If the series is empty, not finite or not in order, or too short for the `breaks` asked for.

    References
    ----------
    Bellman & Roth, JASA 64 (1969), doi:10.1080/01621459.1969.10501038: the programme.
    Zhang & Siegmund, Biometrics 63 (2007), doi:10.1111/j.1541-0420.2006.00662.x: the criterion for
    levels and independent noise; the second coefficient of a line and r are ours.
    """
    if model not in COEFFICIENTS:
        raise GeomdiagError(
            f"unknown model {model!r} of a piece. Known: {', '.join(COEFFICIENTS)}."
        )
    abscissa, values = (np.asarray(one, dtype=np.float64) for one in (x, y))
    if abscissa.ndim != 1 or abscissa.shape != values.shape or not len(abscissa):
        raise GeomdiagError(
            f"a series needs x and y of one length, at least 1; found shapes {abscissa.shape} and "
            f"{values.shape}."
        )
    if not (np.isfinite(abscissa).all() and np.isfinite(values).all()):
        raise GeomdiagError("a series must be finite: leave out the points that are not known.")
    if (np.diff(abscissa) <= 0).any():
        raise GeomdiagError("x must increase strictly: sort the series, keep one point for each x.")
    lines = model != "constant"
    size = 2 + lines if min_size is None else max(min_size, 1 + lines)
    n = len(values)
    possible = max(0, (n - 1) // (size - 1) - 1 if model == "continuous" else n // size - 1)
    if model == "continuous":
        possible = min(possible, MAX_HINGES)
    if breaks is None:
        affordable = [k for k in range(possible + 1) if _used(model, k) <= max(2 * n / 3, 2)]
        most = min(max_breaks, affordable[-1] if affordable else 0)
    elif 0 <= breaks <= possible:
        most = breaks
    else:
        raise GeomdiagError(
            f"{n} points cannot be cut by {breaks} breaks into {model} pieces of at least {size}: "
            f"at most {possible}."
        )
    search = _Hinges if model == "continuous" else _Cuts
    found = search(abscissa, values[None], most, model, size)
    places = [found.breaks(count) for count in range(most + 1)]
    fits = [_fit(abscissa, values[None], place, model)[0] for place in places]
    rss = found.rss[:, 0]
    resolution = max(resolution, ROUNDING * float(np.abs(values).max()))
    criterion = np.array(
        [
            _criterion(values - fit, place[0], COEFFICIENTS[model], resolution)
            for place, fit in zip(places, fits, strict=True)
        ]
    )
    best = most if breaks is not None else int(criterion.argmin())
    return Segmentation(
        abscissa,
        values,
        model,
        size,
        tuple(places[best][0].tolist()),
        fits[best],
        rss,
        criterion,
    )


class _Cuts:
    """The dynamic programme, for several series over the same x at once."""

    def __init__(self, x: FloatArray, y: FloatArray, most: int, model: Model, size: int) -> None:
        series, n = y.shape
        self.rss = np.full((most + 1, series), np.inf)
        #: Start of the last piece of the best fit of points 0..j with k breaks.
        self._start = np.zeros((most + 1, series, n), dtype=np.int32)
        best = np.full((most + 1, series, n), np.inf)
        # Of the points start..j, for every start: means, sums about them, squares left.
        # Points are added one by one, by recursive residuals: nothing cancels, however
        # short the piece and far the values from zero.
        mean_x, mean_y, sxx = np.zeros(n), np.zeros((series, n)), np.zeros(n)
        sxy, left = np.zeros((series, n)), np.zeros((series, n))
        lines = model == "linear"
        for j in range(n):
            count = np.arange(j, -1, -1.0)  # points so far of the pieces that start at 0..j
            here = slice(0, j + 1)
            e = y[:, j : j + 1] - mean_y[:, here]
            grown = count / (count + 1)
            if lines:
                d = x[j] - mean_x[here]
                wide = sxx[here]
                with np.errstate(divide="ignore", invalid="ignore"):
                    weight = grown / (1 + grown * d * d / wide)
                    slope = sxy[:, here] / wide
                short = wide == 0  # a line through at most two points leaves nothing
                weight[short], slope[:, short] = 0, 0
                left[:, here] += weight * (e - slope * d) ** 2
                sxy[:, here] += grown * d * e
                sxx[here] += grown * d * d
                mean_x[here] += d / (count + 1)
            else:
                left[:, here] += grown * e * e
            mean_y[:, here] += e / (count + 1)
            if j + 1 < size:
                continue
            best[0, :, j] = left[:, 0]
            for k in range(1, min(most, (j + 1) // size - 1) + 1):
                first, last = k * size, j + 1 - size  # where the last piece may start
                total = best[k - 1, :, first - 1 : last] + left[:, first : last + 1]
                at = total.argmin(axis=1)
                best[k, :, j] = np.take_along_axis(total, at[:, None], axis=1)[:, 0]
                self._start[k, :, j] = at + first
        self.rss[:] = best[:, :, -1] if n >= size else np.inf
        self.rss[0] = left[:, 0]

    def breaks(self, count: int) -> IntArray:
        """Return the places of the best so many breaks, (series, count)."""
        series, n = self._start.shape[1:]
        found = np.zeros((series, count), dtype=np.int64)
        end = np.full(series, n - 1)
        for k in range(count, 0, -1):
            found[:, k - 1] = self._start[k, np.arange(series), end]
            end = found[:, k - 1] - 1
        return found


class _Hinges:
    """All places of the breaks between lines that meet, for several series at once."""

    def __init__(self, x: FloatArray, y: FloatArray, most: int, model: Model, size: int) -> None:  # noqa: ARG002
        series, n = y.shape
        straight = y - _fit(x, y, _nowhere(series), "linear")
        self.rss = np.empty((most + 1, series))
        self.rss[0] = (straight**2).sum(axis=1)
        self._breaks = [_nowhere(series)]
        if not most:
            return
        places = np.arange(size - 1, n - size + 1)
        # A hinge at every place, what is straight in it taken out: what a set of them explains
        # beyond the one line then depends on their products with each other and with y.
        hinges = np.maximum(x - x[places, None], 0.0)
        hinges -= _fit(x, hinges, _nowhere(len(places)), "linear")
        gram = hinges @ hinges.T
        b = hinges @ straight.T
        products = b[:, None] * b[None]
        for count in range(1, most + 1):
            sets = _spaced(len(places), count, size - 1)
            left, right = np.triu_indices(count)
            inverse = np.linalg.inv(gram[sets[:, :, None], sets[:, None, :]])[:, left, right]
            inverse[:, left != right] *= 2
            best = np.full(series, -np.inf)
            at = np.zeros(series, dtype=np.int64)
            step = max(1, _BATCH // series)
            for start in range(0, len(sets), step):
                some = slice(start, start + step)
                explained = np.zeros((len(sets[some]), series))
                for term, (i, j) in enumerate(zip(left, right, strict=True)):
                    pairs = products[sets[some, i], sets[some, j]]
                    explained += inverse[some, term, None] * pairs
                here = explained.argmax(axis=0)
                value = np.take_along_axis(explained, here[None], axis=0)[0]
                better = value > best
                best[better], at[better] = value[better], here[better] + start
            chosen = places[sets[at]]
            self._breaks.append(chosen)
            self.rss[count] = ((y - _fit(x, y, chosen, "continuous")) ** 2).sum(axis=1)

    def breaks(self, count: int) -> IntArray:
        """Return the places of the best so many breaks, (series, count)."""
        return self._breaks[count]


def _spaced(places: int, count: int, apart: int) -> IntArray:
    """Return all increasing choices of some places that lie at least so far apart."""
    sets = np.arange(places)[:, None]
    for _ in range(count - 1):
        last = sets[:, -1]
        more = np.maximum(places - apart - last, 0)
        owner = np.repeat(np.arange(len(sets)), more)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(more) - more, more)
        sets = np.concatenate([sets[owner], (last[owner] + apart + offset)[:, None]], axis=1)
    return sets


def _nowhere(series: int) -> IntArray:
    return np.zeros((series, 0), dtype=np.int64)


def _used(model: Model, breaks: int) -> int:
    """Return how many numbers a fit takes: coefficients, and a place for each break."""
    return COEFFICIENTS[model] * (breaks + 1) + breaks + (model == "continuous")


def _search(
    x: FloatArray, y: FloatArray, count: int, model: Model, size: int
) -> tuple[FloatArray, IntArray]:
    """Return the sums of squares and the breaks of many series, (count + 1, series) and so on."""
    batch = max(1, _BATCH // (x.size * (count + 1)))
    search = _Hinges if model == "continuous" else _Cuts
    parts = [
        search(x, y[start : start + batch], count, model, size) for start in range(0, len(y), batch)
    ]
    rss = np.concatenate([part.rss for part in parts], axis=1)
    return rss, np.concatenate([part.breaks(count) for part in parts])


def _fit(x: FloatArray, y: FloatArray, breaks: IntArray, model: Model) -> FloatArray:
    """Return the values of the pieces that given breaks cut, for each series."""
    series, n = y.shape
    if model == "continuous" and breaks.shape[1]:
        hinges = np.maximum(x - x[breaks][:, :, None], 0.0)
        straight = _fit(x, y, _nowhere(series), "linear")
        flat = hinges.reshape(-1, n)
        flat = flat - _fit(x, flat, _nowhere(len(flat)), "linear")
        hinges = flat.reshape(hinges.shape)
        gram = hinges @ hinges.transpose(0, 2, 1)
        heights = np.linalg.solve(gram, hinges @ (y - straight)[:, :, None])
        bent: FloatArray = straight + (heights * hinges).sum(axis=1)
        return bent
    piece = (np.arange(n) >= breaks[:, :, None]).sum(axis=1)
    label = piece + (breaks.shape[1] + 1) * np.arange(series)[:, None]
    flat, total = label.ravel(), series * (breaks.shape[1] + 1)
    sizes = np.maximum(np.bincount(flat, minlength=total), 1)

    def mean(values: FloatArray) -> FloatArray:
        sums = np.bincount(flat, weights=values.ravel(), minlength=total)
        means: FloatArray = (sums / sizes)[label]
        return means

    level = mean(y)
    if model == "constant":
        return level
    across = np.broadcast_to(x, y.shape)
    dx = across - mean(across)
    sxx = mean(dx * dx)
    return (
        level + np.divide(mean(dx * (y - level)), sxx, out=np.zeros_like(sxx), where=sxx > 0) * dx
    )


def _criterion(
    residuals: FloatArray, breaks: IntArray, coefficients: int, resolution: float
) -> float:
    """Return the modified Bayesian information criterion of a fit."""
    n = len(residuals)
    sizes = np.diff([0, *breaks.tolist(), n])
    square = max(float(residuals @ residuals), n * resolution**2, _TINY)
    correlation = float(residuals[1:] @ residuals[:-1]) / square
    unexplained = 1 - min(max(correlation, 0.0), MAX_CORRELATION) ** 2
    likelihood = n * math.log(square / n * unexplained) - math.log(unexplained)
    return float(likelihood + 2 * len(breaks) * math.log(n) + coefficients * np.log(sizes).sum())


def _correlation(residuals: FloatArray, used: int) -> float:
    """Return the lag-one correlation of noise from residuals of a fit with `used` numbers.

    A fit takes some of it away: to first order in 1/n the estimate is low by
    ``(q + (q + 2) r) / n``, for a level (Kendall 1954) and for a line alike.
    """
    n, square = len(residuals), float(residuals @ residuals)
    if n < 3 or square <= 0:
        return 0.0
    raw = float(residuals[1:] @ residuals[:-1]) / square
    spare = max(1 - (used + 2) / n, 0.25)
    return float(np.clip((raw + used / n) / spare, 0.0, MAX_CORRELATION))


def _noise(residuals: FloatArray, used: int, samples: int, seed: int) -> FloatArray:
    """Return autoregressive noise like the residuals of a fit with `used` numbers."""
    n = len(residuals)
    correlation = _correlation(residuals, used)
    innovations = residuals[1:] - correlation * residuals[:-1] if n > 1 else residuals
    innovations = innovations - innovations.mean()
    spread = math.sqrt(float(residuals @ residuals) / max(n - used, n / 4))
    wanted = spread * math.sqrt(1 - correlation**2)
    own = math.sqrt(float(np.mean(innovations**2)))
    if own > 0:
        innovations = innovations * (wanted / own)
    drawn = np.random.default_rng(seed).choice(innovations, size=(n, samples))
    noise = np.empty((n, samples))
    noise[0] = drawn[0] / math.sqrt(1 - correlation**2)
    for i in range(1, n):
        noise[i] = correlation * noise[i - 1] + drawn[i]
    return np.ascontiguousarray(noise.T)
