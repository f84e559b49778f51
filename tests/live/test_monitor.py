"""A monitor's numbers are analyze's, and what it kept survives whatever ends the training."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from small_training import ANSWERS, INPUTS, SPLIT, Network, fresh, run

import geomdiag as gd
from geomdiag.errors import ArchitectureError, GeomdiagError, StoreError, TaskError
from geomdiag.live import Monitor

STEP_SCOPE = [name for name, one in gd.ANALYZERS.items() if one.scope == "step"]


def quick(network: Any, out: Path | None = None, **options: Any) -> Monitor:
    """Return a monitor of what is quick to compute and quick to write."""
    options = {"analyzers": ["fit", "dimension"], "every": 10, "quiet": True, **options}
    return Monitor(network, "modadd:p=7", out=out, **options)


def stored(out: Path, name: str = "run") -> xr.Dataset:
    return gd.load(out)[name].to_dataset()


# --- the numbers ---------------------------------------------------------------------------------


def test_numbers_are_those_of_analyze_on_the_saved_states(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    with Monitor(
        network, "modadd", out=out, every=10, analyzers=STEP_SCOPE, split=SPLIT, quiet=True
    ) as monitor:
        trained = run(network, monitor.step, every=10)
    folder = tmp_path / "saved" / "run"
    folder.mkdir(parents=True)
    for step, state in trained.states.items():
        torch.save(state, folder / f"step_{step}.pt")
    tree = gd.analyze(folder, "modadd", analyzers=STEP_SCOPE, split=SPLIT, workers=1)
    expected, found = tree["run"].to_dataset(), stored(out)
    assert set(found.variables) == set(expected.variables)
    for name in found.variables:
        if name != "digest":
            xr.testing.assert_identical(found[name], expected[name])
    assert found["status"].values.tolist() == ["ok"] * 5
    contents = [one.content_digest() for one in gd.open_runs(folder)["run"]]
    assert found["digest"].values.tolist() == contents
    differing = {key for key in found.attrs if found.attrs[key] != expected.attrs.get(key)}
    assert differing == {
        "format",
        *(f"live_{x}" for x in ("seconds", "share", "measured", "skipped")),
    }
    assert found.attrs["live_measured"] == 5
    assert monitor.stage == expected_stage(tree)
    assert monitor.forecast["verdict"] == str(expected["forecast_verdict"].item())
    assert gd.load(out).attrs["task"] == "modadd:p=7"


def expected_stage(tree: xr.DataTree) -> str:
    stage: str = gd.summarise(tree)[0]["stage"]
    return stage


def test_a_network_run_alive_gives_the_numbers_of_one_rebuilt(tmp_path: Path) -> None:
    network = fresh(normed=True)
    run(network, steps=3)

    def rebuilt(state: Any) -> Any:
        again = Network(normed=True)
        again.load_state_dict(state)
        return again.eval()

    alive = quick(network, forward=lambda module, inputs: module(inputs), analyzers=["fit"])
    dead = quick(network, model=rebuilt, analyzers=["fit"])
    for monitor in (alive, dead):
        monitor.step(0)
    xr.testing.assert_equal(alive.dataset, dead.dataset)
    assert alive.dataset.attrs["architecture"] == "user model"


def test_losses_become_the_runs_own_curves() -> None:
    network = fresh()
    monitor = quick(network, split=np.arange(30), analyzers=["fit"])

    def watch(step: int) -> None:
        with torch.no_grad():
            network.eval()
            losses = torch.nn.functional.cross_entropy(network(INPUTS), ANSWERS, reduction="none")
            network.train()
        monitor.step(step, train_loss=losses[:30].mean(), heldout_loss=losses[30:].mean().item())

    run(network, watch)
    found = monitor.dataset
    assert found["history_step"].values.tolist() == list(range(41))
    assert found["quantity"].values.tolist() == ["train_loss", "heldout_loss"]
    assert "disagreement" not in found.attrs
    assert float(np.nanmax(found["disagreement"])) < 1e-4
    recorded = found["history"].sel(quantity="heldout_loss", history_step=[0, 10, 20, 30, 40])
    np.testing.assert_allclose(recorded, found["loss"].sel(part="heldout"), rtol=1e-5)


# --- keeping it ----------------------------------------------------------------------------------


def test_what_was_measured_and_not_written_is_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    given = {"train_loss": 1.5}
    left = quick(network, out)
    run(network, lambda step: left.step(step, **given), steps=35)  # and is never closed
    assert stored(out)["step"].values.tolist() == [0]  # the rest lies in the journal
    network = fresh()
    with quick(network, out) as monitor:
        assert monitor.dataset["step"].values.tolist() == [0, 10, 20, 30]
        run(network, monitor.step)
    assert monitor.cost.measured == 1  # the others were there, of these very weights
    found = stored(out)
    assert found["step"].values.tolist() == [0, 10, 20, 30, 40]
    assert found["history"].sel(history_step=30).item() == 1.5
    assert not list(tmp_path.glob(".run.nc*"))


@pytest.mark.slow
def test_a_killed_training_loses_nothing_that_was_measured(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from small_training import fresh, run
        from geomdiag.live import Monitor
        network = fresh()
        monitor = Monitor(network, "modadd:p=7", out="run.nc", every=10, analyzers=["fit"])
        def watch(step):
            monitor.step(step, train_loss=float(step))
            if step == 35:
                os.kill(os.getpid(), signal.SIGKILL)
        run(network, watch)
        """
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert stored(tmp_path / "run.nc")["step"].values[0] == 0
    network = fresh()
    with quick(network, tmp_path / "run.nc", analyzers=["fit"]) as monitor:
        run(network, lambda step: monitor.step(step, train_loss=float(step)))
    assert monitor.cost.measured == 1  # the others were there, of these very weights
    found = stored(tmp_path / "run.nc")
    assert found["step"].values.tolist() == [0, 10, 20, 30, 40]
    assert found["history"].sel(history_step=30).item() == 30.0
    assert not list(tmp_path.glob(".run.nc*"))


def test_a_resumed_training_appends(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    with quick(network, out) as monitor:
        run(network, monitor.step, steps=20)
    with quick(network, out) as monitor:
        run(network, monitor.step, steps=20, start=20)
    assert monitor.cost.measured == 2
    assert stored(out)["step"].values.tolist() == [0, 10, 20, 30, 40]


def test_steps_that_are_passed_anew_are_replaced_and_kept_aside(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    with quick(network, out) as monitor:
        trained = run(network, lambda step: monitor.step(step, train_loss=step), every=10)
    old = stored(out)
    network.load_state_dict(trained.states[20])
    with pytest.warns(RuntimeWarning, match=r"2 steps from 30 to 40 are dropped"):  # noqa: SIM117
        with quick(network, out) as monitor:
            run(
                network,
                lambda step: monitor.step(step, train_loss=-step),
                start=20,
                seed=9,
                steps=10,
            )
    found = stored(out)
    assert found["step"].values.tolist() == [0, 10, 20, 30]
    xr.testing.assert_equal(found["loss"][:3], old["loss"][:3])
    assert not np.array_equal(found["loss"][3], old["loss"][3])
    assert found["history"].sel(quantity="train_loss").values.tolist()[-2:] == [-29.0, -30.0]
    assert float(found["history"].sel(quantity="train_loss", history_step=15)) == 15.0
    assert "2 steps from 30 to 40 are dropped" in found.attrs["notices"]
    xr.testing.assert_identical(stored(tmp_path / "run.rewound-30.nc")["loss"], old["loss"])


def test_a_kill_while_steps_are_replaced_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    with quick(network, out) as monitor:
        trained = run(network, monitor.step, every=10)
    network.load_state_dict(trained.states[20])

    class KilledError(Exception):
        """Stands for the end of the process."""

    def killed(*_: object) -> None:
        raise KilledError

    resumed = quick(network, out)
    with monkeypatch.context() as patch:
        patch.setattr("geomdiag.live.place.Place.write", killed)
        with (
            pytest.warns(RuntimeWarning, match="are dropped"),
            pytest.raises(KilledError),
        ):
            run(network, resumed.step, start=20, seed=9, steps=10)
    old = stored(out)
    again = quick(network, out)
    for step, digest in zip(old["step"].values, old["digest"].values, strict=True):
        network.load_state_dict(trained.states[int(step)])
        assert not again.step(int(step))  # every row is still that of the old branch
        assert again.dataset["digest"].sel(step=step).item() == digest


def test_another_training_does_not_replace_a_result_unasked(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    with quick(network, out) as monitor:
        run(network, monitor.step, steps=10)
    before = out.read_bytes()
    other = fresh(seed=2)
    with pytest.raises(StoreError, match=r'from step 0 to 10.*another path for out.*"replace"'):
        quick(other, out).step(0)
    with pytest.raises(StoreError, match="is of run, and this run is called 'second'"):
        quick(other, out, name="second")
    with pytest.raises(StoreError, match="differs in analyzers"):
        quick(other, out, analyzers=["fit"])
    with pytest.raises(StoreError, match="differs in split"):
        quick(other, out, split=SPLIT)
    assert out.read_bytes() == before
    with quick(other, out, analyzers=["fit"], if_exists="replace") as monitor:
        monitor.step(0)
    assert stored(out)["step"].values.tolist() == [0]


def test_an_interrupted_loop_keeps_its_result_and_its_exception(tmp_path: Path) -> None:
    def interrupted(monitor: Monitor) -> None:
        with monitor:
            monitor.step(0)
            monitor.step(7, force=True)
            raise KeyboardInterrupt

    monitor = quick(fresh(), tmp_path / "run.nc")
    with pytest.raises(KeyboardInterrupt):
        interrupted(monitor)
    assert stored(tmp_path / "run.nc")["step"].values.tolist() == [0, 7]


def test_a_place_that_cannot_be_written_any_more_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = quick(fresh(), tmp_path / "run.nc")

    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(gd.Journal, "put", full)
    monkeypatch.setattr("geomdiag.store.save", full)
    with pytest.warns(RuntimeWarning, match="no space left"):
        assert monitor.step(0)
    with pytest.warns(RuntimeWarning, match="no space left"):
        assert monitor.step(10)
    assert monitor.dataset["step"].values.tolist() == [0, 10]
    with pytest.raises(StoreError, match="no space left"):
        monitor.close()


def test_a_network_that_diverges_becomes_a_row_that_says_so() -> None:
    network = fresh()
    monitor = quick(network)
    monitor.step(0)
    with torch.no_grad():
        network.output.weight.fill_(torch.nan)
    monitor.step(10)
    assert monitor.dataset["status"].values.tolist() == ["ok", "failed"]
    assert "output.weight" in str(monitor.dataset["error"].values[1])


# --- cost ----------------------------------------------------------------------------------------


def test_cost_is_measured_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with quick(fresh(), tmp_path / "run.nc", quiet=False) as monitor:
        monitor.step(0)
        assert not monitor.step(9)
        time.sleep(0.2)
    cost = monitor.cost
    assert cost.measured == 1
    assert 0 < cost.share < 1
    assert cost.seconds / cost.share >= 0.2
    written = capsys.readouterr()
    assert written.out == ""
    assert "1 step measured in" in written.err
    assert str(tmp_path / "run.nc") in written.err
    attrs = stored(tmp_path / "run.nc").attrs
    assert 0 < attrs["live_seconds"] <= cost.seconds
    assert attrs["live_skipped"] == 0


def test_steps_are_skipped_above_the_budget_and_that_is_said() -> None:
    monitor = quick(fresh(), max_share=0.5, every=1)
    assert monitor.step(0)
    with pytest.warns(RuntimeWarning, match=r"step 1 is skipped.*max_share=0.5"):
        assert not monitor.step(1)
    assert not monitor.step(2)
    assert monitor.step(3, force=True)
    assert monitor.cost.skipped == 2
    found = monitor.dataset
    assert found["step"].values.tolist() == [0, 3]
    assert found.attrs["live_skipped"] == 2
    assert "skipped" in found.attrs["notices"]
    deadline = time.perf_counter() + 2.5 * monitor.cost.seconds
    while time.perf_counter() < deadline:
        time.sleep(0.05)
    assert monitor.step(4)  # by now it is below the budget again


# --- misuse --------------------------------------------------------------------------------------


def test_misuse_is_told_before_the_training(tmp_path: Path) -> None:
    network = fresh()
    with pytest.raises(TaskError, match="p=11"):
        Monitor(network, "modadd:p=11")
    with pytest.raises(ArchitectureError, match="no known architecture"):
        Monitor(torch.nn.LSTM(3, 5, 2), "modadd:p=7")
    with pytest.raises(GeomdiagError, match="unknown analyzer 'fitt'"):
        quick(network, analyzers=["fitt"])
    with pytest.raises(ValueError, match="every: found 0"):
        quick(network, every=0)
    with pytest.raises(ValueError, match="max_share: found 2"):
        quick(network, max_share=2)
    with pytest.raises(ValueError, match="if_exists"):
        quick(network, if_exists="overwrite")
    with pytest.raises(ArchitectureError, match="both model and forward"):
        quick(network, model="a:b", forward=lambda module, inputs: module(inputs))
    with pytest.raises(ValueError, match="step: found -1"):
        quick(network).step(-1)
    with pytest.raises(GeomdiagError, match="nothing was measured yet"):
        _ = quick(network).forecast
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(StoreError, match="no geomdiag result"):
        quick(network, tmp_path / "note.txt")


def test_diagnostics_that_compare_checkpoints_say_why_they_are_not_there() -> None:
    monitor = quick(fresh(), analyzers=["fit", "alignment"])
    monitor.step(0)
    assert "alignment" not in monitor.dataset
    assert "none is kept" in monitor.dataset.attrs["not_computed"]


def test_only_the_first_process_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    with quick(fresh(), tmp_path / "run.nc") as monitor:
        assert not monitor.step(0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GeomdiagError, match="the first process"):
        _ = monitor.dataset
