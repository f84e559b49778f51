"""Made-up results with everything that the report shows."""

from __future__ import annotations

import numpy as np
import xarray as xr
from helpers.synthetic_corpus import a_run

import geomdiag as gd


def full_run(seed: int, *, steps: int = 100, blocks: int = 15, solves: bool = True) -> xr.Dataset:
    """Return a run with stages, a forecast, a spectrum and `steps` checkpoints."""
    base = a_run(seed, "modadd:p=31", solves=solves)
    rng = np.random.default_rng(seed)
    # the made-up steps are too few: the ones between are in between
    at = np.unique(np.round(np.geomspace(1, 4000, 3 * steps)))
    at = np.concatenate([[0], at[np.round(np.linspace(0, len(at) - 1, steps - 1)).astype(int)]])
    run = base.interp(step=at.astype(np.int64))
    run.attrs.update(base.attrs)
    grown = np.linspace(0, 4, steps)[:, None] * (np.arange(blocks) % 5 == 2)
    power = rng.random((steps, blocks)) + grown
    power /= power.sum(axis=1, keepdims=True)
    key = np.broadcast_to(np.arange(blocks) % 5 == 2, (steps, blocks))
    run = run.assign_coords(block=[f"k={k + 1}" for k in range(blocks)]).assign(
        power=(("step", "matrix", "block"), power[:, None]),
        key_block=(("step", "matrix", "block"), key[:, None].astype(np.int8)),
        key_p_value=(("step", "matrix", "block"), np.where(key, 1e-4, 0.5)[:, None]),
        status=("step", np.full(steps, "ok", dtype="<U7")),
        error=("step", np.full(steps, "", dtype=object).astype(str)),
        norm=(("step", "matrix", "kind"), rng.random((steps, 1, 1)) + 5),
    )
    return run.assign_coords(kind=["frobenius"])


def full_tree(runs: int, **options: int) -> xr.DataTree:
    """Return a result of many runs, every third of which does not generalise."""
    nodes = {f"/seed={i}": full_run(i, solves=bool(i % 3), **options) for i in range(runs)}
    tree = gd.forecast(gd.segment(xr.DataTree.from_dict(nodes), samples=19))
    tree.attrs = {"geomdiag_version": "0.1.0", "task": "modadd:p=31", "split_source": "run.json"}
    return tree
