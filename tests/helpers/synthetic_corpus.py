"""A corpus of made-up runs that behave: violations fall before accuracy rises."""

from __future__ import annotations

import numpy as np
import xarray as xr

from geomdiag.dynamics.corpus import collect


def a_run(seed: int, task: str, *, solves: bool = True) -> xr.Dataset:
    """Return a result with the variables that forecasts look at."""
    rng = np.random.default_rng(seed)
    onset = float(np.exp(rng.uniform(5.5, 7.5))) if solves else np.inf
    steps = np.unique(np.concatenate([[0], np.exp(np.arange(0, np.log(4000), 0.12)).astype(int)]))
    steps = np.append(steps[steps < 4000], 4000)
    way = np.clip(steps / onset, 0, 1.2)
    fall = 1 / (1 + np.exp(12 * (way - 0.8)))
    js = np.stack([fall * 1.5, fall * 2.5], axis=1)[:, None] * np.exp(
        0.05 * rng.normal(size=(len(steps), 1, 2))
    )
    rank = (20 - 12 * way)[:, None, None]
    heldout = 1 - fall * 0.9
    heldout = np.where(way >= 1, 1.0, np.minimum(heldout, 0.98))
    if not solves:
        heldout = np.full(len(steps), 0.1)
    accuracy = np.stack([0.5 + heldout / 2, np.ones(len(steps)), heldout], axis=1)
    loss = np.stack([fall, np.full(len(steps), 1e-3), 5 * fall + 0.01], axis=1)
    return xr.Dataset(
        {
            "symmetry_js": (("step", "symmetry", "statistic"), js),
            "symmetry_violation": (("step", "symmetry", "statistic"), 5 * js),
            "logit_scale": ("step", 1 + way),
            "dimension": (("step", "matrix", "measure"), np.repeat(rank, 2, axis=2)),
            "accuracy": (("step", "part"), accuracy),
            "loss": (("step", "part"), loss),
        },
        {
            "step": steps,
            "symmetry": ["commutativity"],
            "statistic": ["mean", "max"],
            "matrix": ["embedding"],
            "measure": ["effective_dimension", "entropy_rank"],
            "part": ["all", "train", "heldout"],
        },
        {"task": task, "architecture": "embedding_mlp", "run": f"seed={seed}"},
    )


def a_corpus(tasks: int = 4, seeds: int = 6) -> xr.Dataset:
    """Return runs of several tasks; every third never generalises."""
    return collect(
        (
            f"task{t}+{seed % 2}/seed={seed}",
            a_run(100 * t + seed, f"modadd:p={t + 5}", solves=bool(seed % 3)),
        )
        for t in range(tasks)
        for seed in range(seeds)
    )
