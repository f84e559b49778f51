"""The reproduction page is what its script writes, and its statistics are right."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from scipy.integrate import quad

from geomdiag.dynamics.corpus import collect, load_corpus
from geomdiag.dynamics.criterion import load_criterion

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module", autouse=True)
def _docs_can_be_imported() -> Iterator[None]:
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("make_reproduction")


@pytest.fixture(scope="module")
def statistics() -> ModuleType:
    return importlib.import_module("reproduction.statistics")


@pytest.fixture(scope="module")
def corpus_runs(script: ModuleType) -> Any:
    return script.read_runs(load_corpus(script.CORPUS))


def test_page_is_what_the_script_writes(script: ModuleType, corpus_runs: Any) -> None:
    written = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    assert written == script.page(corpus_runs), "run `python docs/make_reproduction.py`"


def test_figures_are_small_and_the_same_each_time(
    script: ModuleType, corpus_runs: Any, tmp_path: Path
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    first = script.write_figures(corpus_runs, tmp_path / "first")
    second = script.write_figures(corpus_runs, tmp_path / "second")
    constraints = (DOCS.parent / "constraints.txt").read_text(encoding="utf-8").split()
    text = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    for one, other in zip(first, second, strict=True):
        committed = DOCS / "figures" / one.name
        assert one.read_bytes() == other.read_bytes()
        assert committed.stat().st_size < 200_000
        assert ElementTree.parse(committed).getroot().tag.endswith("svg")
        assert f"](figures/{one.name})" in text
        if f"matplotlib=={matplotlib.__version__}" in constraints:  # others draw otherwise
            assert committed.read_bytes() == one.read_bytes(), "run docs/make_reproduction.py"


# --- statistics --------------------------------------------------------------------------------


def test_median_interval_of_five_is_the_range(statistics: ModuleType) -> None:
    found = statistics.median_interval([5, 1, 4, 2, 3])
    assert (found.at_least, found.at_most, found.lower, found.upper) == (3, 3, 1, 5)
    assert found.coverage == 1 - 2 / 32


def test_median_of_censored_values(statistics: ModuleType) -> None:
    most = statistics.median_interval([10, 20, 30, math.inf, math.inf])
    assert (most.at_least, most.lower, most.upper) == (30, 10, math.inf)
    few = statistics.median_interval([10, 20, math.inf, math.inf, math.inf])
    assert few.at_least == math.inf
    # known only to lie between: the median does as well
    loose = statistics.median_interval([0, 2, 3, 4, 5], [1, 2, 9, math.inf, math.inf])
    assert (loose.at_least, loose.at_most, loose.lower, loose.upper) == (3, 9, 0, math.inf)


@pytest.mark.parametrize("n", [3, 5, 8, 12, 20, 41])
def test_median_interval_covers_as_often_as_it_says(statistics: ModuleType, n: int) -> None:
    rng = np.random.default_rng(n)
    samples = rng.exponential(size=(1500, n))
    found = [statistics.median_interval(sample) for sample in samples]
    covered = np.mean([one.lower < math.log(2) < one.upper for one in found])
    assert covered == pytest.approx(found[0].coverage, abs=0.03)
    # the next narrower one would cover less than is asked for
    if n >= 5:
        assert found[0].coverage >= statistics.COVERAGE
        k = int(np.searchsorted(np.sort(samples[0]), found[0].lower))
        narrower = 1 - 2 * sum(math.comb(n, i) for i in range(k + 2)) / 2**n
        assert narrower < statistics.COVERAGE


def test_auroc_is_the_share_of_pairs(statistics: ModuleType) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 17), rng.integers(2, 9, 11)
    pairs = [(a < b) + 0.5 * (a == b) for a, b in itertools.product(first, second)]
    assert statistics.auroc(first, second) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert statistics.auroc([1, 2], [3, 4]) == 1
    assert statistics.auroc([3, 4], [1, 2]) == 0


def test_auroc_interval_covers(statistics: ModuleType) -> None:
    """Exponential scores, for which the error formula is exact: area r / (1 + r)."""
    rng = np.random.default_rng(1)
    ratio = 9.0
    area = quad(lambda x: math.exp(-x) * math.exp(-x / ratio), 0, math.inf)[0]
    assert area == pytest.approx(ratio / (1 + ratio))
    inside = []
    for _ in range(1500):
        found = statistics.auroc(rng.exponential(size=12), ratio * rng.exponential(size=15))
        low, high = statistics.auroc_interval(found, 12, 15)
        assert low <= found <= high
        inside.append(low <= area <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_auroc_interval_of_a_perfect_separation_is_not_a_point(statistics: ModuleType) -> None:
    low, high = statistics.auroc_interval(1.0, 10, 10)
    assert high == 1
    assert 0.6 < low < 0.9
    assert statistics.auroc_interval(0.0, 10, 10) == pytest.approx((0, 1 - low))
    assert statistics.auroc_interval(1.0, 100, 100)[0] > low


def test_thresholds_are_those_that_are_shipped(corpus_runs: Any) -> None:
    """One rule: the page's τ of a symmetry is the shipped level of the same signal."""
    rows = importlib.import_module("reproduction.threshold").tau_rows(corpus_runs)
    shipped = load_criterion()["tasks"]
    for row in rows:
        task, _, symmetry = row[0].rpartition(": ")
        levels = {one["signal"]: one["level"] for one in shipped[task]}
        for cell, statistic in ((row[2], "mean"), (row[4], "max")):
            assert cell == f"{levels[f'symmetry_violation[{symmetry},{statistic}]']:.2g}"
    assert len(rows) == 39


def test_leave_one_seed_out(statistics: ModuleType) -> None:
    seeds = np.repeat(np.arange(4), 5)
    solved = np.tile([True, True, False, False, False], 4)
    apart = np.where(solved, 0.01, 1.0)
    assert statistics.leave_one_seed_out(apart, solved, seeds) == 1
    # what one seed alone would tell of itself does not count
    odd = np.where((seeds == 0) & solved, 100.0, apart)
    assert statistics.leave_one_seed_out(odd, solved, seeds) == 18 / 20
    assert math.isnan(statistics.leave_one_seed_out(apart, solved, np.zeros(20)))


# --- runs that are known -----------------------------------------------------------------------


def made_run(setting: str, seed: int, generalised: int | None, violation: float) -> Any:
    """Return name, result and recipe of a run on the lattice."""
    steps = np.array([0, 100, 1000, 2000])
    right = generalised is not None
    heldout = (steps >= generalised).astype(float) if generalised is not None else 0 * steps
    dataset = xr.Dataset(
        {
            "accuracy": (("step", "part"), np.stack([0.0 * steps + 1, heldout], axis=1)),
            "symmetry_violation": (
                ("step", "symmetry", "statistic"),
                np.full((4, 1, 2), violation) * [1, 3],
            ),
            "history": (("history_step", "quantity"), heldout[:, None]),
            "stage_order": ((), "held: all" if right else "cannot be told: no t_geometry"),
            "stage_boundary": ("boundary", [10.0, 1500.0, np.nan]),
        },
        {
            "step": steps,
            "history_step": steps,
            "quantity": ["heldout_accuracy"],
            "part": ["train", "heldout"],
            "symmetry": ["triangle"],
            "statistic": ["mean", "max"],
            "boundary": ["t_symmetry", "t_geometry", "t_settled"],
        },
        {"task": "graph:lattice-7x7", "architecture": "mlp"},
    )
    training = {"seeds": [seed], "train_fraction": 0.8, "weight_decay": 1.0, "lr": 0.005}
    recipe = {"training": training, "model": {"kind": "mlp", "d_hidden": 8}}
    if setting != "baseline":
        recipe["auxiliary"] = {"kind": setting.removesuffix("-1")}
    return f"graph-lattice-7x7-mlp+{setting}/seed={seed}", dataset, json.dumps(recipe)


@pytest.fixture(scope="module")
def made_runs(script: ModuleType) -> Any:
    made = [made_run("baseline", seed, 1000, 1e-3) for seed in range(5)]
    made += [made_run("triangle", seed, 100, 1e-4) for seed in range(5)]
    made += [made_run("nuclear-1", seed, None, 1.0) for seed in range(5)]
    recipes = {name: recipe for name, _, recipe in made}
    return script.read_runs(collect([(name, data) for name, data, _ in made], recipes=recipes))


def test_rows_of_known_runs(script: ModuleType, made_runs: Any) -> None:
    (experiment,) = (e for e in script.EXPERIMENTS if e.sweep == "graph-lattice-7x7-mlp")
    rows = {row.variant: row for row in script.compare(experiment, made_runs)}
    assert rows["baseline"].cells()[1:5] == ["5", "5/5", "5/5", "1000 [1000, 1000]"]
    assert rows["triangle"].cells()[4:] == ["100 [100, 100]", "0.10 [0.10, 0.10]", "faster"]
    assert rows["nuclear-1"].cells()[2:5] == ["0/5", "0/5", "not within 2000 steps"]
    assert rows["nuclear-1"].cells()[5:] == ["> 2.0 [2.0, ∞]", "slower"]
    assert rows["reversal"].cells()[1] == "no runs"


def test_page_of_known_runs(script: ModuleType, made_runs: Any) -> None:
    text = script.page(made_runs)
    assert "| graph:lattice-7x7: triangle | 10 | 5 | 1.000 [" in text
    # half-way between 1e-3 and 1, in logarithm
    assert (
        "| graph:lattice-7x7: triangle | 15 | 0.032 | 100.0% | 0.095 | 100.0% | 66.7% | 0/5 |"
        in text
    )
    assert "contradicted (faster 0, slower 1, of 1)" in text
    assert "confirmed (faster 1, slower 0, of 1)" in text
    assert "5 of 5 runs with both times" in text
    assert "of 5 runs that generalise, without a prior or prompt: held in 5, broken in 0" in text


def test_a_violation_of_zero_is_drawn_and_judged(script: ModuleType) -> None:
    pytest.importorskip("matplotlib")
    pictures = importlib.import_module("reproduction.pictures")
    made = [made_run("baseline", seed, 1000, 0.1) for seed in range(3)]
    made += [made_run("nuclear-1", seed, None, 1.0) for seed in range(3)]
    for _, dataset, _ in made[:3]:
        dataset["symmetry_violation"][-1] = 0.0
    recipes = {name: recipe for name, _, recipe in made}
    runs = script.read_runs(collect([(name, data) for name, data, _ in made], recipes=recipes))
    axes = pictures.figure_threshold(runs).axes[0]
    solved, tau = axes.lines[0], axes.lines[3]
    assert solved.get_xdata() == pytest.approx(np.full(3, script.FLOOR))
    assert solved.get_ydata() == pytest.approx(np.ones(3))
    assert tau.get_xdata()[0] == pytest.approx(math.sqrt(script.FLOOR))


def test_a_pair_of_which_neither_generalised_may_have_any_ratio(
    script: ModuleType, made_runs: Any
) -> None:
    times = importlib.import_module("reproduction.times")
    base = next(run for run in made_runs if run.variant == "baseline")
    never = next(run for run in made_runs if run.variant == "nuclear-1")
    assert times.ratio_bounds(never, never) == (0, math.inf)
    assert times.ratio_bounds(base, never) == (0, 0.5)
    assert times.ratio_bounds(never, base) == (2, math.inf)
    assert times.ratio_bounds(base, base) == (1, 1)
