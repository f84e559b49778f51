"""Results and checkpoints to draw, made up so that what must be seen is known."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from helpers.synthetic_corpus import a_corpus

from geomdiag.models.snapshot import Matrix, Snapshot
from geomdiag.tasks import task

STEPS = np.array([0, 1, 3, 10, 30, 100, 300, 1000, 3000])
#: One flag a step: memorisation from 30, symmetry from 100, geometry from 1000.
STAGE = np.array([0, 0, 0, 0, 1, 2, 2, 3, 3])
BOUNDARIES = {
    "t_memorised": (30.0, 10.0, 30.0),
    "t_symmetry": (100.0, 30.0, 300.0),
    "t_generalised": (1000.0, 300.0, 1000.0),
    "t_geometry": (1000.0, np.nan, 3000.0),
    "t_settled": (np.nan, np.nan, np.nan),
}
#: Those whose interval is a bootstrap's.
TESTED = ("t_symmetry", "t_geometry")
BLOCKS = ("k=1", "k=2", "k=3", "k=4")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def a_result(steps: np.ndarray[Any, Any] = STEPS) -> xr.Dataset:
    """Return a run's result with every variable that a figure draws."""
    n = len(steps)
    way = np.linspace(0, 1, n)
    accuracy = np.stack([way, np.minimum(1, 2 * way), way**2], axis=1)
    violation = 10.0 ** -(4 * way)[:, None] * np.array([1.0, 0.5])
    power = np.stack([1 - way, way, 0 * way, 0 * way], axis=1)[:, None]
    bars = np.full((n, 1, 2, 3, 2), np.nan)
    bars[:, 0, 0, :2] = [[0.0, 0.5], [0.0, 0.25]]
    bars[:, 0, 1, 0] = [0.5, 1.5]
    later = np.maximum(steps, 1)[:, None] * np.array([1.2, 1.5, 2.0, 3.0, 6.0])
    stage = STAGE[:n]
    return xr.Dataset(
        {
            "accuracy": (("step", "part"), accuracy),
            "symmetry_js": (("step", "symmetry", "statistic"), violation[..., None]),
            "symmetry_violation": (("step", "symmetry", "statistic"), 2 * violation[..., None]),
            "symmetry_architectural": ("symmetry", [False, False]),
            "dimension": (("step", "matrix", "measure"), (10 - 8 * way)[:, None, None]),
            "stage": (
                "step",
                stage,
                {
                    "flag_values": [-1, 0, 1, 2, 3],
                    "flag_meanings": "unknown before memorisation symmetry_acquisition "
                    "geometric_organisation",
                },
            ),
            "stage_boundary": ("boundary", [at for at, _, _ in BOUNDARIES.values()]),
            "stage_boundary_interval": (
                ("boundary", "ci_bound"),
                [ends for _, *ends in BOUNDARIES.values()],
                {"ci_prob": 0.9},
            ),
            "stage_fact": (
                ("boundary", "fact"),
                [[0.9 if name in TESTED else np.nan] for name in BOUNDARIES],
            ),
            "power": (("step", "matrix", "block"), power),
            "key_p_value": (("step", "matrix", "block"), np.full((n, 1, 4), 0.5)),
            "key_block": (("step", "matrix", "block"), np.tile([0.0, 1.0, 0.0, 0.0], (n, 1, 1))),
            "block_frequency": (("block", "axis"), [[0, 1], [1, 0], [1, 1], [1, 2]]),
            "persistence": (("step", "matrix", "homology", "bar", "bound"), bars),
            "holes": (("step", "matrix", "homology"), np.tile([np.nan, 1.0], (n, 1, 1))),
            "onset": (("forecast_mode", "step", "quantile"), later[None]),
            "onset_never": (("forecast_mode", "step"), 1 - way[None]),
        },
        {
            "step": ("step", steps, {"long_name": "optimiser step"}),
            "part": ["all", "train", "heldout"],
            "symmetry": ["commutativity", "associativity"],
            "statistic": ["mean"],
            "matrix": ["embedding"],
            "measure": ["effective_dimension"],
            "boundary": list(BOUNDARIES),
            "ci_bound": ["lower", "upper"],
            "fact": ["interval_prob"],
            "block": list(BLOCKS),
            "axis": ["k1", "k2"],
            "homology": ["H0", "H1"],
            "bound": ["birth", "death"],
            "forecast_mode": ["losses"],
            "quantile": list(QUANTILES),
        },
        {"run": "seed=0", "task": "modadd:p=9"},
    )


def a_circle(p: int = 11, k: int = 3, noise: float = 0.0) -> np.ndarray[Any, Any]:
    """Return tokens on the circle of one frequency, (p, 6)."""
    angle = 2 * np.pi * k * np.arange(p) / p
    rng = np.random.default_rng(0)
    plane = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    frame = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    return np.asarray(plane @ frame.T + noise * rng.normal(size=(p, 6)))


def a_snapshot(spec: str = "modadd:p=11", points: np.ndarray[Any, Any] | None = None) -> Snapshot:
    """Return a checkpoint with an embedding alone."""
    values = a_circle() if points is None else points
    return Snapshot(task(spec), matrices={"embedding": Matrix(values)}, step=700)


@cache
def some_runs() -> xr.Dataset:
    """Return a corpus of four tasks, of whose runs every third does not generalise."""
    return a_corpus(tasks=4, seeds=12)


def sample(figure: Any) -> tuple[Any, dict[str, Any]]:
    """Return what a registered figure can be drawn of, and further arguments."""
    if figure.of == "run":
        return a_result(), {}
    if figure.of == "runs":
        return some_runs(), {"task": "modadd:p=5"}
    return a_snapshot(points=a_circle(noise=0.02)), {}
