"""False alarms of the gate and what it finds: simulated runs, many recorded seeds, the corpus.

``python benchmarks/gate.py`` measures and writes the tables of ``docs/gate.md`` (some minutes);
with ``--train`` it first trains and analyses the many seeds anew (some minutes more).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from gate_scatter import KINDS, METRICS, share_that_fails

import geomdiag as gd
from geomdiag.gate.baseline import Baseline, load_baseline, make_baseline, save_baseline
from geomdiag.gate.measured import Measured, measure
from geomdiag.gate.verdict import check

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "gate.md"
RECIPE = HERE.parent / "docs" / "examples" / "github-action" / "recipe.toml"
CORPUS = HERE.parent / "fixtures" / "corpus" / "corpus.zarr.zip"
SEEDS = HERE / "gate_seeds"

#: Share of the data that the many seeds train on, by name: with less, some never generalise.
FRACTIONS = {"quick": 0.9, "mixed": 0.8}
MANY = "0-119"
TASK = "modadd:p=17"
DESIGNS = ((3, 1), (5, 1), (8, 1), (3, 3), (5, 2), (5, 3), (8, 2), (8, 3))
POWER = ((3, 1), (3, 3), (3, 5), (5, 1), (5, 2), (5, 3), (5, 5), (8, 1), (8, 2), (8, 3))
TIMES = ("t_memorised", "t_generalised")

Run = dict[str, float]


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float) -> str:
    """Return a share in words."""
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def name_of(design: tuple[int, int]) -> str:
    """Return how many runs are held against how many."""
    return f"{design[0]} + {design[1]}"


# --- simulated -----------------------------------------------------------------------------------


def simulated(repeats: int) -> str:
    """Return false alarms of runs whose scatter is known."""
    rows = []
    for kind, draw in KINDS.items():
        shares = [share_that_fails(draw, *design, repeats=repeats) for design in DESIGNS]
        rows.append([kind, *map(percent, shares)])
        print(rows[-1], flush=True)
    return table(["scatter of the seeds", *map(name_of, DESIGNS)], rows)


def power(repeats: int) -> str:
    """Return how often a shift of normal runs is found."""
    rows = []
    for design in POWER:
        row = [name_of(design)]
        for kind, shifted in (("normal", 1), ("normal, metrics correlated by 0.9", METRICS)):
            for shift in (1.0, 2.0, 3.0):
                share = share_that_fails(
                    KINDS[kind], *design, repeats=repeats, shift=shift, shifted=shifted
                )
                row.append(f"{100 * share:.0f} %")
        rows.append(row)
        print(row, flush=True)
    heads = [f"{many}, {shift} sd" for many in ("one metric", "all") for shift in (1, 2, 3)]
    return table(["seeds + new runs", *heads], rows)


# --- recorded ------------------------------------------------------------------------------------


def train() -> None:
    """Train and analyse the many seeds, and keep their numbers as baselines."""
    with tempfile.TemporaryDirectory() as folder:
        for name, fraction in FRACTIONS.items():
            text = RECIPE.read_text("utf-8").replace('name = "quick"', f'name = "{name}"')
            text = text.replace("train_fraction = 0.9", f"train_fraction = {fraction}")
            Path(folder, "recipe.toml").write_text(text, encoding="utf-8")
            words = [sys.executable, "-m", "geomdiag", "train", "recipe.toml", "--seeds", MANY]
            subprocess.run([*words, "--out", "runs", "--quiet"], cwd=folder, check=True)
            tree = gd.analyze(Path(folder, "runs", name), TASK, workers=1)
            save_baseline(make_baseline(measure(tree)), SEEDS / f"{name}.toml")


def recorded(name: str) -> list[Run]:
    """Return the numbers of many seeds, run by run."""
    (setting,) = load_baseline(SEEDS / f"{name}.toml").settings.values()
    metrics = {metric: one.values for metric, one in setting.metrics.items()}
    return [
        dict(zip(metrics, values, strict=True)) for values in zip(*metrics.values(), strict=True)
    ]


def together(runs: list[Run]) -> list[Measured]:
    """Return runs as the seeds of one setting."""
    names = dict.fromkeys(name for run in runs for name in run)
    return [Measured("x", {name: tuple(run.get(name, math.nan) for run in runs) for name in names})]


def fails(old: list[Run], new: list[Run], *, level: float = 0.05) -> bool:
    """Return whether new runs fail against a default baseline of the old ones."""
    return not check(together(new), make_baseline(together(old)), level=level).passed


def said(name: str, runs: list[Run]) -> str:
    """Return what the many seeds are, in words."""
    never = sum(math.isnan(run["t_generalised"]) for run in runs)
    share = f"{100 * FRACTIONS[name]:g} %"
    return f"trained on {share} of all pairs; {never} of {len(runs)} never generalise"


def many_seeds(repeats: int) -> str:
    """Return false alarms among many seeds of one recipe, and how often less data is found."""
    quick, mixed = recorded("quick"), recorded("mixed")
    rows = []
    for words, first, second in (
        (said("quick", quick), quick, quick),
        (said("mixed", mixed), mixed, mixed),
        ("found: the second held against the first", quick, mixed),
    ):
        row = [words]
        for old, new in DESIGNS:
            rng = np.random.default_rng(0)
            failed = 0
            for _ in range(repeats):
                order = rng.permutation(len(first))
                chosen = order[:old], order[old : old + new]
                failed += fails([first[i] for i in chosen[0]], [second[i] for i in chosen[1]])
            row.append(percent(failed / repeats))
        rows.append(row)
        print(row, flush=True)
    return table(["seeds of a small recipe", *map(name_of, DESIGNS)], rows)


class Corpus:
    """The corpus of recorded runs, five seeds a setting."""

    def __init__(self) -> None:
        corpus = gd.load_corpus(CORPUS)
        self._signals = corpus["signal"].values.tolist()
        self._values, self._step, self._run = (
            corpus[name].values for name in ("value", "step", "run_index")
        )
        self._times = {name: corpus[name].values for name in TIMES}
        self.solved_at = self._times["t_generalised"]
        self.settings: dict[str, list[int]] = defaultdict(list)
        for run, setting in enumerate(corpus["setting"].values):
            self.settings[setting].append(run)
        self.runs = [self.numbers(run) for run in range(corpus.sizes["run"])]

    def numbers(self, run: int, until: float = math.inf) -> Run:
        """Return what a run's result holds at its last checkpoint up to a step."""
        rows = np.flatnonzero((run == self._run) & (until >= self._step))
        column = self._values[:, rows[np.argmax(self._step[rows])]]
        known = {
            name: float(one) for name, one in zip(self._signals, column, strict=True) if one == one
        }
        if until == math.inf:
            known |= {name: float(values[run]) for name, values in self._times.items()}
        return known

    def splits(self, old: int, new: int, *, solved: bool) -> Iterator[tuple[list[int], list[int]]]:
        """Yield seeds of a setting in every way of splitting them."""
        for runs in self.settings.values():
            if solved and not np.isfinite(self.solved_at[runs]).all():
                continue
            for first in combinations(runs, old):
                for second in combinations([run for run in runs if run not in first], new):
                    yield list(first), list(second)


def without_times(baseline: Baseline) -> Baseline:
    """Return a baseline of geometry alone."""
    setting = baseline.settings["x"]
    metrics = {name: one for name, one in setting.metrics.items() if name not in TIMES}
    return replace(baseline, settings={"x": replace(setting, metrics=metrics)})


def corpus_table() -> str:
    """Return false alarms on the corpus, and how often a training that ended early is found."""
    corpus = Corpus()
    rows = []
    for old, new, level in ((1, 1, 0.05), (3, 1, 0.05), (4, 1, 0.05), (2, 3, 0.1), (3, 2, 0.1)):
        row = [name_of((old, new)), f"{100 * level:g} %"]
        for solved in (False, True):
            failed = [
                fails(
                    [corpus.runs[i] for i in first], [corpus.runs[i] for i in second], level=level
                )
                for first, second in corpus.splits(old, new, solved=solved)
            ]
            row.append(percent(float(np.mean(failed))))
        for share in (0.5, 0.9):
            found = []
            for first, second in corpus.splits(old, new, solved=True):
                baseline = without_times(make_baseline(together([corpus.runs[i] for i in first])))
                early = [corpus.numbers(i, share * corpus.solved_at[i]) for i in second]
                found.append(not check(together(early), baseline, level=level).passed)
            row.append(percent(float(np.mean(found))))
        rows.append(row)
        print(row, flush=True)
    heads = ["seeds + new runs", "level", "all 128 settings", "the 44 where all five generalise"]
    return table([*heads, "stopped half-way: found", "stopped at nine tenths: found"], rows)


def main() -> None:
    """Measure, and write the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="train the many seeds anew")
    parser.add_argument("--repeats", type=int, default=2000, help="checks behind a number")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.train:
        train()
    tables = {
        "simulated": simulated(options.repeats),
        "many seeds": many_seeds(options.repeats // 2),
        "corpus": corpus_table(),
        "power": power(options.repeats // 4),
    }
    page = PAGE.read_text(encoding="utf-8")
    for name, text in tables.items():
        place = re.compile(rf"(<!-- {name}: benchmarks/gate.py -->\n).*?(<!-- end -->)", re.DOTALL)
        page, found = place.subn(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
        if found != 1:
            raise SystemExit(f"{PAGE} has {found} places for the table {name!r}; expected one")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
