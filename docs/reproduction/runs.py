"""The runs of the corpus and the experiments that they form."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

#: Accuracy that counts as solved, as for the corpus' times.
SOLVED = 0.99
#: A symmetry that no checkpoint breaks by more (nats) is one that the network has by construction.
BY_CONSTRUCTION = 1e-6
#: Smaller final violations (nats), many of them exactly 0, count as this.
FLOOR = 1e-9

PRIORS = ("nuclear-1", "nuclear-0.01", "entropy-1", "entropy-0.01", "lipschitz-1", "lipschitz-0.01")
LABELS = {
    "baseline": "baseline",
    "nuclear-1": "nuclear norm, λ = 1",
    "nuclear-0.01": "nuclear norm, λ = 0.01",
    "entropy-1": "spectral entropy, λ = 1",
    "entropy-0.01": "spectral entropy, λ = 0.01",
    "lipschitz-1": "Lipschitz, λ = 1",
    "lipschitz-0.01": "Lipschitz, λ = 0.01",
    "consistency": "commutativity and associativity",
    "grokfast": "GrokFast-EMA",
    "grokfast-low-decay": "GrokFast-EMA, weight decay 0.3 (against the same without)",
}


@dataclass(frozen=True)
class Experiment:
    """Settings that share a task, a network and, seed by seed, their start and train inputs."""

    title: str
    sweep: str
    prompts: tuple[str, ...]
    priors: tuple[str, ...] = PRIORS
    #: Of another optimiser: variant and the variant that it is held against.
    others: tuple[tuple[str, str], ...] = (("grokfast", "baseline"),)

    @property
    def variants(self) -> dict[str, str]:
        """Names of the variants, the baseline first, and of those they are held against."""
        names = ("baseline", *self.priors, *self.prompts)
        return {**dict.fromkeys(names, "baseline"), **dict(self.others)}


MODULAR = ("commutativity", "associativity", "consistency")
EXPERIMENTS = (
    Experiment(
        "Modular addition, MLP",
        "modadd-p31-mlp",
        (*MODULAR, "translation"),
        others=(("grokfast", "baseline"), ("grokfast-low-decay", "decay-0.3")),
    ),
    Experiment("Modular addition, transformer", "modadd-p31-transformer", MODULAR, PRIORS[1::2]),
    Experiment("Lattice, MLP", "graph-lattice-7x7-mlp", ("reversal", "automorphism", "triangle")),
    Experiment(
        "2-D comparison, transformer",
        "comparison-5x5-transformer",
        ("antisymmetry", "transitivity"),
    ),
)
CONTROL = Experiment(
    "Modular addition, MLP, no weight decay", "modadd-p31-mlp-no-decay", MODULAR, (), ()
)
#: Symmetry of each family of tasks in the scatter; the paper's own.
SHOWN = {"modadd": "associativity", "graph": "triangle", "comparison": "transitivity"}


@dataclass(frozen=True)
class Run:
    """One run: its times, and its signals at the last checkpoint."""

    setting: str
    seed: int
    task: str
    recipe: dict[str, Any]
    last_step: float
    memorised: float
    symmetry: float
    generalised: float
    geometry: float
    order: str
    best: float
    first: dict[str, float]
    final: dict[str, float]
    covers_all: dict[str, bool]
    learnt: frozenset[str]

    @property
    def sweep(self) -> str:
        """Name of the sweep."""
        return self.setting.partition("+")[0]

    @property
    def variant(self) -> str:
        """Name of the variant within the sweep."""
        return self.setting.partition("+")[2] or "baseline"

    @property
    def accuracy(self) -> float:
        """Held-out accuracy at the last checkpoint."""
        return self.final.get("accuracy[heldout]", math.nan)

    @property
    def solved(self) -> bool:
        """Whether the run ends with the task solved."""
        return self.accuracy >= SOLVED

    @property
    def random_labels(self) -> bool:
        """Whether most train answers were drawn at random."""
        return float(self.recipe["training"].get("label_noise", 0)) > 0.5

    @property
    def auxiliary(self) -> str:
        """Kind of the loss beside the cross-entropy, empty without one."""
        return str((self.recipe.get("auxiliary") or {}).get("kind", ""))

    @property
    def prompted(self) -> bool:
        """Whether a symmetry was asked for by a loss."""
        return self.auxiliary not in ("", "nuclear", "entropy", "lipschitz")

    def violation(self, symmetry: str, measure: str) -> float:
        """Return the final violation, at least `FLOOR`; NaN if it was not to be learnt."""
        if symmetry not in self.learnt:
            return math.nan
        variable, statistic = measure.split()
        value = self.final.get(f"{variable}[{symmetry},{statistic}]", math.nan)
        return value if math.isnan(value) else max(value, FLOOR)


MEASURES = {
    "symmetry_violation mean": "mean KL",
    "symmetry_violation max": "max KL",
    "symmetry_js mean": "mean JS",
    "symmetry_js max": "max JS",
}


def read_runs(corpus: xr.Dataset) -> list[Run]:
    """Return the runs of a corpus, by setting and seed."""
    signals = corpus["signal"].values.astype(str).tolist()
    values, owner = corpus["value"].values, corpus["run_index"].values
    facts = {
        name: corpus[name].values for name in corpus.data_vars if corpus[name].dims == ("run",)
    }
    runs = []
    for i in range(corpus.sizes["run"]):
        table = dict(zip(signals, values[:, owner == i].astype(np.float64), strict=True))
        broken = {
            name.partition("[")[2].removesuffix(",mean]")
            for name, curve in table.items()
            if name.startswith("symmetry_violation[")
            and name.endswith(",mean]")
            and np.nanmax(np.append(curve, 0)) > BY_CONSTRUCTION
        }
        heldout = table.get("accuracy[heldout]", np.array([]))
        recipe = json.loads(str(facts["recipe"][i]))
        order = str(facts["stage_order"][i]).partition(":")[0]
        runs.append(
            Run(
                setting=str(facts["setting"][i]),
                seed=int(recipe["training"]["seeds"][0]),
                task=str(facts["task"][i]),
                recipe=recipe,
                last_step=float(facts["last_step"][i]),
                memorised=float(facts["t_memorised"][i]),
                symmetry=float(facts["t_symmetry"][i]),
                generalised=float(facts["t_generalised"][i]),
                geometry=float(facts["t_geometry"][i]),
                order=order if order in ("held", "broken") else "neither",
                best=float(np.nanmax(np.append(heldout, 0))),
                first={name: float(curve[0]) for name, curve in table.items()},
                final={name: float(curve[-1]) for name, curve in table.items()},
                covers_all={
                    name: bool(
                        np.isnan(table.get(f"covered_accuracy[{name},uncovered]", math.nan)).all()
                    )
                    for name in broken
                    if f"covered_accuracy[{name},covered]" in table
                },
                learnt=frozenset(broken),
            )
        )
    return sorted(runs, key=lambda run: (run.setting, run.seed))
