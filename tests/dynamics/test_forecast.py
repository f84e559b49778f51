"""Forecasts of runs: causal, in both modes, in words, and when there is little to go by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers.synthetic_corpus import a_corpus, a_run

from geomdiag.dynamics.features import GEOMETRY, LOSSES, features
from geomdiag.dynamics.forecast import (
    forecast,
    forecast_run,
    load_forecaster,
    save_forecaster,
)
from geomdiag.dynamics.forecaster import Forecaster, cases_of, fit_forecaster
from geomdiag.errors import GeomdiagError

Forecasters = dict[str, Forecaster]


def ahead(run: xr.Dataset) -> np.ndarray:
    """Return at which steps there is something to forecast."""
    begun: np.ndarray = run["step"].values >= 10
    return begun & (run["accuracy"].sel(part="heldout").values < 0.99)


@pytest.fixture(scope="module")
def fitted() -> Forecasters:
    corpus = a_corpus(tasks=6, seeds=9)
    return {mode: fit_forecaster(cases_of(corpus, mode), mode) for mode in ("geometry", "losses")}


@pytest.mark.parametrize("mode", ["geometry", "losses"])
def test_a_forecast_depends_on_no_later_step(fitted: Forecasters, mode: str) -> None:
    run = a_run(1000, "modadd:p=31")
    whole = forecast_run(run, forecasters=fitted)
    for count in (20, 35, 50):
        part = forecast_run(run.isel(step=slice(None, count)), forecasters=fitted)
        for name in ("onset", "onset_probability", "onset_never"):
            np.testing.assert_array_equal(
                part[name].sel(forecast_mode=mode).values,
                whole[name].sel(forecast_mode=mode).isel(step=slice(None, count)).values,
            )


def test_what_lies_behind_is_not_forecast(fitted: Forecasters) -> None:
    """Nor may it be known of a step that its accuracy will fall below again, or will not."""
    run = a_run(1000, "modadd:p=31")
    bare = forecast_run(run.drop_vars("accuracy"), forecasters={"geometry": fitted["geometry"]})
    heldout = np.full(run.sizes["step"], 0.5)
    heldout[[25, 26, *range(40, 60)]] = 0.99
    heldout[[27, 41, 44]] = np.nan  # what is not known is as it was
    run["accuracy"].loc[{"part": "heldout"}] = heldout
    over = np.zeros(run.sizes["step"], dtype=bool)
    over[[25, 26, 27, *range(40, 60)]] = True
    early = run["step"].values < 10
    whole = forecast_run(run, forecasters=fitted)
    for name in ("onset", "onset_probability", "onset_never"):
        for mode in ("geometry", "losses"):
            values = whole[name].sel(forecast_mode=mode).values.reshape(len(over), -1)
            assert np.isnan(values).any(axis=1).tolist() == (over | early).tolist()
            assert np.isnan(values).all(axis=1).tolist() == (over | early).tolist()
        # without accuracies nobody can say so; elsewhere the forecast is the same
        told = bare[name].sel(forecast_mode="geometry").values
        assert not np.isnan(told[~early]).any()
        np.testing.assert_array_equal(
            whole[name].sel(forecast_mode="geometry").values[~over], told[~over]
        )
    for count in (26, 28, 41, 45, 60):
        part = forecast_run(run.isel(step=slice(None, count)), forecasters=fitted)
        for name in ("onset", "onset_probability", "onset_never"):
            np.testing.assert_array_equal(
                part[name].values, whole[name].isel(step=slice(None, count)).values
            )
        words = str(part["forecast_verdict"].values)
        assert (words == "has generalised: nothing to forecast") is bool(over[count - 1])


def test_features_depend_on_no_later_step_and_are_the_same_for_every_run() -> None:
    rng = np.random.default_rng(0)
    steps = np.unique(rng.integers(0, 5000, size=40))
    signals = {
        name: np.where(rng.random(len(steps)) < 0.2, np.nan, rng.random(len(steps)))
        for name in ("symmetry_js[a,mean]", "symmetry_js[b,mean]", "loss[heldout]", "logit_scale")
    }
    groups = {**GEOMETRY, **LOSSES}
    whole = features(steps, signals, groups)
    assert list(features(steps, {}, groups)) == list(whole)
    for count in (1, 2, 3, 17):
        part = features(steps[:count], {k: v[:count] for k, v in signals.items()}, groups)
        for name, values in part.items():
            np.testing.assert_allclose(values, whole[name][:count], rtol=1e-9, err_msg=name)


def test_slopes_are_least_squares() -> None:
    rng = np.random.default_rng(1)
    steps = np.unique(np.exp(np.linspace(0, 8, 60)).astype(int))
    values = rng.random(len(steps))
    found = features(steps, {"logit_scale": np.exp(values)}, GEOMETRY)["logit_scale_slope"]
    x = np.log1p(steps)
    for i in range(4, len(steps)):
        own = np.flatnonzero((x >= x[i] - np.log(1.6)) & (np.arange(len(x)) <= i))
        if len(own) < 3:
            own = np.arange(i - 2, i + 1)
        assert found[i] == pytest.approx(np.polyfit(x[own], values[own], 1)[0], abs=1e-8)


def test_chances_quantiles_and_words_agree(fitted: Forecasters) -> None:
    run = a_run(1001, "modadd:p=31")
    found = forecast_run(run, budget=4000, forecasters=fitted)
    late = ahead(run)
    chance = found["onset_probability"].values[:, late]
    onset = found["onset"].values[:, late]
    assert ((chance >= 0) & (chance <= 1)).all()
    assert (np.diff(chance, axis=-1) >= 0).all()
    assert (np.diff(np.nan_to_num(onset, posinf=1e12), axis=-1) >= 0).all()
    assert np.isnan(found["onset"].values[:, ~late]).all()
    now = found["step"].values[late]
    assert (onset >= now[:, None]).all()
    assert (onset <= 24.6 * now[:, None]).all()
    never = found["onset_never"].values[:, late]
    reach = now * np.exp(3.2) >= 4000
    assert np.isnan(never[:, ~reach]).all()
    assert ((never[:, reach] >= 0) & (never[:, reach] <= 1)).all()
    assert "has generalised" in str(found["forecast_verdict"].values)
    before = run.isel(step=slice(None, 45))
    assert "90 % interval" in str(
        forecast_run(before, forecasters=fitted)["forecast_verdict"].values
    )


def test_forecasts_improve_on_the_way(fitted: Forecasters) -> None:
    errors = []
    for seed in range(2000, 2012):
        run = a_run(seed, "modadd:p=97")
        onset = float(run["step"].values[(run["accuracy"].sel(part="heldout") >= 0.99).values][0])
        found = forecast_run(run, forecasters=fitted)
        median = found["onset"].sel(forecast_mode="geometry", quantile=0.5)
        errors.append(
            [
                abs(float(median.sel(step=share * onset, method="pad")) / onset - 1)
                for share in (0.5, 0.9)
            ]
        )
    early, late = np.median(errors, axis=0)
    assert late < 0.25
    assert early < 0.5


def test_a_run_that_does_nothing_is_expected_to_do_nothing(fitted: Forecasters) -> None:
    run = a_run(1002, "modadd:p=31", solves=False)
    found = forecast_run(run, budget=8000, forecasters=fitted)
    assert (found["onset_never"].values[:, -1] > 0.8).all()
    assert "does not generalise by step 8000 with a chance" in str(found["forecast_verdict"].values)
    far = forecast_run(run, budget=1e9, forecasters=fitted)
    assert "cannot be told (nothing beyond" in str(far["forecast_verdict"].values)


def test_without_a_split_there_is_one_mode(fitted: Forecasters) -> None:
    run = a_run(1003, "modadd:p=31").sel(part=["all"])
    run["accuracy"] = run["accuracy"].clip(max=0.999)
    found = forecast_run(run, forecasters=fitted)
    assert found["forecast_mode"].values.tolist() == ["geometry"]
    assert "from symmetry and geometry alone" in str(found["forecast_verdict"].values)


def test_little_to_go_by(fitted: Forecasters) -> None:
    run = a_run(1004, "modadd:p=31")
    early = forecast_run(run.isel(step=slice(None, 3)), forecasters=fitted)
    assert "no forecast: it begins at step 10" in str(early["forecast_verdict"].values)
    one = forecast_run(run.isel(step=[20]), forecasters=fitted)
    assert np.isfinite(one["onset_never"].values).all()
    blind = forecast_run(run.drop_vars(["symmetry_js", "symmetry_violation"]), forecasters=fitted)
    assert list(blind.data_vars) == ["forecast_verdict"]
    gaps = run.copy(deep=True)
    gaps["symmetry_js"][::2] = np.nan
    gaps["dimension"][:] = np.nan
    found = forecast_run(gaps, forecasters=fitted)
    assert np.isfinite(found["onset_never"].values[:, ahead(run)]).all()


def test_a_run_that_loses_generalisation_is_forecast_again(fitted: Forecasters) -> None:
    run = a_run(1005, "modadd:p=31")
    run["accuracy"].loc[{"part": "heldout", "step": run["step"][-2:]}] = 0.3
    found = forecast_run(run, forecasters=fitted)
    assert "has generalised" not in str(found["forecast_verdict"].values)
    never = found["onset_never"].sel(forecast_mode="losses").values
    assert np.isnan(never[-3])
    assert np.isfinite(never[-2:]).all()
    assert "with a chance of" in str(found["forecast_verdict"].values)


def test_a_run_that_starts_solved_has_nothing_to_forecast(fitted: Forecasters) -> None:
    run = a_run(1007, "modadd:p=31")
    solved = run.isel(step=slice(-20, None))
    solved["accuracy"][:] = 1.0
    found = forecast_run(solved, forecasters=fitted)
    assert str(found["forecast_verdict"].values) == "has generalised: nothing to forecast"


def test_without_a_split_all_inputs_right_leave_nothing_to_forecast(fitted: Forecasters) -> None:
    run = a_run(1000, "modadd:p=31").isel(part=[0]).assign_coords(part=["all"])
    right = np.full(run.sizes["step"], 0.995)  # held-out accuracy may be far below
    right[[30, 31, -1]] = 1.0
    run["accuracy"].loc[{"part": "all"}] = right
    found = forecast_run(run, forecasters=fitted)
    missing = np.isnan(found["onset"].sel(forecast_mode="geometry").values).all(axis=1)
    assert missing.tolist() == ((right == 1.0) | (run["step"].values < 10)).tolist()
    assert str(found["forecast_verdict"].values) == "has generalised: nothing to forecast"


def test_ten_thousand_checkpoints(fitted: Forecasters) -> None:
    run = a_run(1008, "modadd:p=31")
    steps = np.arange(10_000)
    many = run.isel(step=np.searchsorted(run["step"].values, steps).clip(max=run.sizes["step"] - 1))
    many = many.assign_coords(step=steps)
    found = forecast_run(many, forecasters=fitted)
    assert found["onset"].shape == (2, 10_000, 5)
    assert np.isfinite(found["onset_never"].values[:, ahead(many)]).all()
    assert ahead(many).sum() > 100


def test_forecast_of_a_result(fitted: Forecasters) -> None:
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"task": "x"}), "/a": a_run(1, "x")})
    once = forecast(tree, forecasters=fitted)
    twice = forecast(once, budget=5000, forecasters=fitted)
    assert twice["a"]["onset_never"].attrs["definition"].startswith("budget: step 5000; missing")
    assert once["a"]["accuracy"].equals(twice["a"]["accuracy"])
    with pytest.raises(GeomdiagError, match="budget: found -3"):
        forecast(tree, budget=-3, forecasters=fitted)


def test_forecasters_are_small_data(fitted: Forecasters, tmp_path: Path) -> None:
    path = save_forecaster(fitted, tmp_path / "forecaster.json", about={"source": "a test"})
    assert path.stat().st_size < 300_000
    again = load_forecaster(path)
    run = a_run(1006, "modadd:p=31")
    xr.testing.assert_allclose(
        forecast_run(run, forecasters=fitted),
        forecast_run(run, forecasters=again),
        rtol=1e-4,
        atol=1e-5,
    )
    (tmp_path / "other.json").write_text('{"format": "x"}')
    with pytest.raises(GeomdiagError, match="cannot be read as a forecaster"):
        load_forecaster(tmp_path / "other.json")
    with pytest.raises(GeomdiagError, match="there is no forecaster at"):
        load_forecaster(tmp_path / "absent.json")
