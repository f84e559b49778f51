"""The thresholds and the forecaster that come with geomdiag are those of the corpus."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from geomdiag.dynamics.corpus import digest, load_corpus
from geomdiag.dynamics.criterion import calibrate, load_criterion
from geomdiag.dynamics.forecast import load_forecaster
from geomdiag.dynamics.forecaster import MODES, cases_of

CORPUS = Path(__file__).resolve().parents[2] / "fixtures" / "corpus" / "corpus.zarr.zip"


@pytest.fixture(scope="module")
def corpus() -> xr.Dataset:
    return load_corpus(CORPUS)


def test_the_corpus_is_what_its_page_says(corpus: xr.Dataset) -> None:
    onset, after = corpus["t_generalised"].values, corpus["t_generalised_after"].values
    assert corpus.sizes["run"] >= 400
    assert len(np.unique(corpus["task"].values)) >= 12
    assert CORPUS.stat().st_size < 20e6
    assert corpus["value"].dtype == np.float32
    # every onset is known to 5 %
    assert np.nanmax((onset - after) / onset) <= 0.05
    hopeless = np.char.endswith(
        corpus["setting"].values.astype(str), "random-labels"
    ) | np.char.endswith(corpus["setting"].values.astype(str), "little-data")
    hopeless |= np.char.endswith(corpus["setting"].values.astype(str), "too-little-data")
    assert hopeless.sum() >= 80
    assert np.isnan(onset[hopeless]).all()
    assert all(text.startswith("{") for text in corpus["recipe"].values)
    # some generalise while they memorise, some come close and stay there
    memorised = corpus["t_memorised"].values
    assert (onset < 1.5 * memorised).sum() >= 20
    last = np.searchsorted(corpus["run_index"].values, np.arange(len(onset)), side="right") - 1
    end = corpus["value"].sel(signal="accuracy[heldout]").values[last]
    assert ((end > 0.5) & (end < 0.99) & np.isnan(onset)).sum() >= 20


def test_thresholds_are_those_of_the_corpus(corpus: xr.Dataset) -> None:
    made, shipped = calibrate(corpus), load_criterion()
    assert made["corpus"] == shipped["corpus"]
    for part in ("tasks", "families"):
        assert list(made[part]) == list(shipped[part])
        for name, rows in made[part].items():
            for one, other in zip(rows, shipped[part][name], strict=True):
                assert one["signal"] == other["signal"]
                assert one["level"] == pytest.approx(other["level"], rel=1e-4)
                assert one["error"] == pytest.approx(other["error"], abs=1e-6)


def test_the_forecaster_was_fitted_to_this_corpus(corpus: xr.Dataset) -> None:
    data = files("geomdiag.dynamics") / "data" / "forecaster.json"
    assert json.loads(data.read_text(encoding="utf-8"))["corpus"] == digest(corpus)


@pytest.mark.parametrize("mode", list(MODES))
def test_the_forecaster_knows_the_features_and_the_runs(corpus: xr.Dataset, mode: str) -> None:
    model = load_forecaster()[mode]
    cases = cases_of(corpus, mode)
    assert model.hazard.names == cases.names
    survival = model.survival(cases.columns)
    assert (np.diff(survival, axis=1) <= 1e-12).all()
    # on the runs it was fitted to, soon and never are told apart
    soon = (cases.growth < np.log(1.2)) & ~cases.done
    never = np.isnan(cases.growth) & (cases.seen > np.log(5))
    assert np.median(survival[soon, 5]) < 0.5
    assert np.median(survival[never, 5]) > 0.9
    # intervals have ends, above the present step and below the reach
    ends = model.quantiles(cases.columns)
    assert np.isfinite(ends).all()
    assert (np.diff(ends, axis=1) >= 0).all()
    assert (np.median(ends[:, 4] - ends[:, 0])) < np.log(24.5)
