"""Time to save and to load a result of many runs, against the same for few.

    python benchmarks/many_runs.py
    python benchmarks/many_runs.py --runs 25 50 --once-a-run

The result is made up: each run has the shape of a real one, some 70 variables over 5 steps, and
nothing is analysed. CPU time of this process. All is measured in this one run against the first
number of runs, so the ratios hold on any machine. The floor is linear: k times the runs take k
times as long, a growth of 1.0; the square of the number of runs would show as a growth of k.
Exit code 1 if the growth of saving or loading passes 1.5.

``--once-a-run`` also saves with the metadata consolidated after each run, which is what xarray
does by itself and geomdiag did: the growth that is avoided.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import xarray as xr

from geomdiag import store

VARIABLES, STEPS, BOUND = 70, 5, 1.5


def result(runs: int) -> xr.DataTree:
    """Return a made-up result."""
    rng = np.random.default_rng(0)
    about = {"long_name": "a metric", "units": "1", "definition": "a sentence or two " * 5}
    nodes = {"/": xr.Dataset(attrs={"task": "modadd:p=7"})}
    for number in range(runs):
        data = {
            f"metric_{i}": (("step", "measure"), rng.normal(size=(STEPS, 4)), about)
            for i in range(VARIABLES)
        }
        coords = {"step": np.arange(STEPS), "measure": list("abcd")}
        nodes[f"/seed={number}"] = xr.Dataset(data, coords, {"run": f"seed={number}"})
    return xr.DataTree.from_dict(nodes)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def save_consolidating_each(tree: xr.DataTree, path: Path) -> None:
    """Save as xarray would by itself."""
    write = xr.DataTree.to_zarr

    def to_zarr(self: xr.DataTree, *arguments: Any, **options: Any) -> Any:
        return write(self, *arguments, **{**options, "consolidated": True})

    with patch.object(xr.DataTree, "to_zarr", to_zarr):
        store.save(tree, path)


def main() -> int:
    """Print the table; return 1 if something grows faster than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--once-a-run", action="store_true", help="also save as before")
    given = parser.parse_args()
    names = ["save", "load"] + ["once a run"] * given.once_a_run
    print(f"{'runs':>5}" + "".join(f"{name + ', s':>14}{'growth':>8}" for name in names))
    kept, first = True, []
    with tempfile.TemporaryDirectory() as folder:
        store.load(store.save(result(1), Path(folder) / "warm.zarr"))
        for runs in given.runs:
            tree, path = result(runs), Path(folder) / f"{runs}.zarr"
            times = [seconds(lambda: store.save(tree, path)), seconds(lambda: store.load(path))]  # noqa: B023
            if given.once_a_run:
                times.append(seconds(lambda: save_consolidating_each(tree, path)))  # noqa: B023
            first = first or times
            growth = [
                took / began * given.runs[0] / runs
                for took, began in zip(times, first, strict=True)
            ]
            kept &= max(growth[:2]) <= BOUND
            cells = zip(times, growth, strict=True)
            line = "".join(f"{took:14.2f}{grown:8.2f}" for took, grown in cells)
            print(f"{runs:5}{line}", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
