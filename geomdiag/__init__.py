"""Symmetry and geometry of neural networks, measured over their training checkpoints.

>>> import geomdiag as gd
>>> runs = gd.open_runs("runs/")                       # doctest: +SKIP
>>> tree = gd.analyze(runs, task="modadd")             # doctest: +SKIP
>>> tree["NAME_OF_A_RUN"]["symmetry_violation"]        # doctest: +SKIP

Everything listed here is loaded when it is first used: importing geomdiag costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomdiag import errors, live
    from geomdiag.analysis import analyze, analyze_into
    from geomdiag.analyzers import ANALYZERS, Analyzer
    from geomdiag.analyzers.symmetry import symmetry_violation
    from geomdiag.checkpoints import Checkpoint, Runs, Series, Split, open_runs, parse_split
    from geomdiag.dynamics.corpus import load_corpus
    from geomdiag.dynamics.criterion import calibrate
    from geomdiag.dynamics.forecast import forecast
    from geomdiag.dynamics.segment import segment
    from geomdiag.dynamics.segmentation import segment_series
    from geomdiag.dynamics.stages import stages
    from geomdiag.errors import GeomdiagError
    from geomdiag.inspection import inspect_runs
    from geomdiag.metrics.alignment import (
        displacement,
        linear_cka,
        mutual_knn,
        procrustes_distance,
        rotation_share,
    )
    from geomdiag.metrics.circle import circle_fit, pizza_circularity
    from geomdiag.metrics.distortion import distortion, distortions
    from geomdiag.metrics.divergence import jensen_shannon, mean_pair_violation, symmetric_kl
    from geomdiag.metrics.fit import correct, cross_entropy, log_softmax, logit_scale
    from geomdiag.metrics.helix import helix_fit
    from geomdiag.metrics.order import (
        additivity,
        additivity_null,
        axis_angles,
        order_readout,
        step_evenness,
    )
    from geomdiag.metrics.progress import (
        distance_irrelevance,
        excluded_loss,
        gradient_symmetricity,
        restricted_loss,
    )
    from geomdiag.metrics.rank import (
        dimensions,
        effective_dimension,
        entropy_rank,
        entropy_rank_squared,
        frobenius_norm,
        intrinsic_dimension,
        norms,
        nuclear_norm,
        participation_ratio,
        spectral_norm,
        stable_rank,
    )
    from geomdiag.metrics.spectrum import (
        block_power,
        concentration,
        key_blocks,
        neuron_concentration,
        power_fractions,
    )
    from geomdiag.metrics.symmetry import equivalence_violation
    from geomdiag.metrics.topology import circular_coordinate, persistence
    from geomdiag.models import Network, Snapshot
    from geomdiag.store import Journal, load, save
    from geomdiag.summary import summarise
    from geomdiag.tasks import Task, task, task_families
    from geomdiag.tasks.groups import Dual, FiniteGroup, dual, finite_group, irreps

    __version__: str

_HOMES = {
    "analysis": ("analyze", "analyze_into"),
    "analyzers": ("ANALYZERS", "Analyzer"),
    "analyzers.symmetry": ("symmetry_violation",),
    "checkpoints": ("Checkpoint", "Runs", "Series", "Split", "open_runs", "parse_split"),
    "dynamics.corpus": ("load_corpus",),
    "dynamics.criterion": ("calibrate",),
    "dynamics.forecast": ("forecast",),
    "dynamics.segment": ("segment",),
    "dynamics.segmentation": ("segment_series",),
    "dynamics.stages": ("stages",),
    "errors": ("GeomdiagError",),
    "inspection": ("inspect_runs",),
    "metrics.alignment": (
        "displacement",
        "linear_cka",
        "mutual_knn",
        "procrustes_distance",
        "rotation_share",
    ),
    "metrics.circle": ("circle_fit", "pizza_circularity"),
    "metrics.distortion": ("distortion", "distortions"),
    "metrics.divergence": ("jensen_shannon", "mean_pair_violation", "symmetric_kl"),
    "metrics.fit": ("correct", "cross_entropy", "log_softmax", "logit_scale"),
    "metrics.helix": ("helix_fit",),
    "metrics.order": (
        "additivity",
        "additivity_null",
        "axis_angles",
        "order_readout",
        "step_evenness",
    ),
    "metrics.progress": (
        "distance_irrelevance",
        "excluded_loss",
        "gradient_symmetricity",
        "restricted_loss",
    ),
    "metrics.rank": (
        "dimensions",
        "effective_dimension",
        "entropy_rank",
        "entropy_rank_squared",
        "frobenius_norm",
        "intrinsic_dimension",
        "norms",
        "nuclear_norm",
        "participation_ratio",
        "spectral_norm",
        "stable_rank",
    ),
    "metrics.spectrum": (
        "block_power",
        "concentration",
        "key_blocks",
        "neuron_concentration",
        "power_fractions",
    ),
    "metrics.symmetry": ("equivalence_violation",),
    "metrics.topology": ("circular_coordinate", "persistence"),
    "models": ("Network", "Snapshot"),
    "store": ("Journal", "load", "save"),
    "summary": ("summarise",),
    "tasks": ("Task", "task", "task_families"),
    "tasks.groups": ("Dual", "FiniteGroup", "dual", "finite_group", "irreps"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ANALYZERS",
    "Analyzer",
    "Checkpoint",
    "Dual",
    "FiniteGroup",
    "GeomdiagError",
    "Journal",
    "Network",
    "Runs",
    "Series",
    "Snapshot",
    "Split",
    "Task",
    "__version__",
    "additivity",
    "additivity_null",
    "analyze",
    "analyze_into",
    "axis_angles",
    "block_power",
    "calibrate",
    "circle_fit",
    "circular_coordinate",
    "concentration",
    "correct",
    "cross_entropy",
    "dimensions",
    "displacement",
    "distance_irrelevance",
    "distortion",
    "distortions",
    "dual",
    "effective_dimension",
    "entropy_rank",
    "entropy_rank_squared",
    "equivalence_violation",
    "errors",
    "excluded_loss",
    "finite_group",
    "forecast",
    "frobenius_norm",
    "gradient_symmetricity",
    "helix_fit",
    "inspect_runs",
    "intrinsic_dimension",
    "irreps",
    "jensen_shannon",
    "key_blocks",
    "linear_cka",
    "live",
    "load",
    "load_corpus",
    "log_softmax",
    "logit_scale",
    "mean_pair_violation",
    "mutual_knn",
    "neuron_concentration",
    "norms",
    "nuclear_norm",
    "open_runs",
    "order_readout",
    "parse_split",
    "participation_ratio",
    "persistence",
    "pizza_circularity",
    "power_fractions",
    "procrustes_distance",
    "restricted_loss",
    "rotation_share",
    "save",
    "segment",
    "segment_series",
    "spectral_norm",
    "stable_rank",
    "stages",
    "step_evenness",
    "summarise",
    "symmetric_kl",
    "symmetry_violation",
    "task",
    "task_families",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from geomdiag._version import version

        return version()
    if name in ("errors", "live"):
        return importlib.import_module(f"geomdiag.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'geomdiag' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"geomdiag.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
