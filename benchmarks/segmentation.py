"""Cost of segmenting a series of 100, 1000 and 10 000 points, and of the stages of a run.

Run ``python benchmarks/segmentation.py``. One thread, CPU time, best of three.

The floor. An exact search over all cuts needs the cost of every piece: n (n + 1) / 2 of them,
50 million at n = 10 000. For a line each is eleven products and sums and one division of float64
in the recursive form that loses no digits, and for each number of breaks one more sum and one
comparison: with five breaks 22 operations a piece. They are timed here as NumPy does them, whole
rows at a time on data in cache. What stands above the floor is the choice of the smallest (argmin
reads once more), the division by zero of the shortest pieces, and, for short series, the call
of NumPy itself: some 35 calls a point.

Lines that meet are found by trying all places of up to three breaks, n³ / 6 sets of six products
each: 42 thousand sets at n = 64, the most that the stages use. Longer curves are averaged in
64 bins of log(1 + step) first, so that a run's stages take as long with 10 000 checkpoints as with
64, but for reading the curves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import xarray as xr

from geomdiag.analysis.crew import one_thread
from geomdiag.dynamics.segmentation import segment_series
from geomdiag.dynamics.stages import stages

OPERATIONS = 22


def seconds(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def series(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.log1p(10.0 * np.arange(n))
    at = x[n // 3]
    return x, np.where(x < at, 0.0, 3 * (at - x)) + 0.1 * rng.normal(size=n)


def floor(n: int) -> float:
    """Return the time of the operations alone, on one row of ordinary length again and again."""
    row = min(n, 2000)
    a, b, out = np.random.default_rng(0).random((3, row))
    repeats = max(1, 2_000_000 // row)

    def work() -> None:
        for _ in range(repeats):
            np.multiply(a, b, out=out)
            np.add(a, b, out=out)

    each = seconds(work) / (2 * repeats * row)
    return each * OPERATIONS * n * (n + 1) / 2


def run(n: int) -> xr.Dataset:
    """Return a run of n checkpoints that passes all stages."""
    steps = np.unique(np.geomspace(10, 100_000, n).astype(np.int64) + np.arange(n))
    log = np.log10(steps)

    def rises(at: float, width: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(log - np.log10(at)) / width))

    js = 1 - 0.999 * rises(8000, 0.05)
    return xr.Dataset(
        {
            "accuracy": (
                ("step", "part"),
                np.stack([rises(200, 0.03), rises(9000, 0.03)], axis=1),
            ),
            "symmetry_js": (("step", "symmetry", "statistic"), js[:, None, None].repeat(3, axis=1)),
            "dimension": (
                ("step", "matrix", "measure"),
                np.round(50 - 40 * rises(40_000, 0.05))[:, None, None],
            ),
        },
        {
            "step": steps,
            "part": ["train", "heldout"],
            "symmetry": ["commutativity", "associativity", "translation"],
            "statistic": ["mean"],
            "matrix": ["embedding"],
            "measure": ["effective_dimension"],
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="*", default=[100, 1000, 10_000])
    sizes = parser.parse_args().points
    with one_thread():
        print(
            f"{'points':>8} {'levels':>9} {'lines':>9} {'floor':>9} {'above it':>9} {'stages':>9}"
        )
        for n in sizes:
            x, y = series(n)
            levels = seconds(lambda x=x, y=y: segment_series(x, y, model="constant"))  # type: ignore[misc]
            lines = seconds(lambda x=x, y=y: segment_series(x, y))  # type: ignore[misc]
            least = floor(n)
            data = run(n)
            whole = seconds(lambda data=data: stages(data))  # type: ignore[misc]
            print(
                f"{n:8d} {levels:8.3f}s {lines:8.3f}s {least:8.4f}s {lines / least:8.1f}x "
                f"{whole:8.3f}s"
            )


if __name__ == "__main__":
    main()
