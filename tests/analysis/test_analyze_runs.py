"""Runs in, one tree out: finished steps, failures, workers, agreement with what was recorded."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from run_maker import P, weights, write_run, write_step

import geomdiag as gd
from geomdiag import store
from geomdiag.analysis import analyze, analyze_into
from geomdiag.analysis import run as run_module
from geomdiag.analysis import steps as steps_module
from geomdiag.analysis.agreement import compare
from geomdiag.analyzers.contract import Analyzer, describe
from geomdiag.checkpoints.series import History
from geomdiag.errors import (
    ArchitectureError,
    SplitError,
    StoreError,
    TaskError,
    UnknownNameError,
)

QUICK = ["fit", "symmetry", "dimension"]


def only(tree: xr.DataTree) -> xr.Dataset:
    (node,) = tree.children.values()
    return node.to_dataset()


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the step of every checkpoint that is computed."""
    seen: list[int] = []

    def counting(plan: object, checkpoint: object) -> object:
        seen.append(checkpoint.step)  # type: ignore[attr-defined]
        return steps_module.measure(plan, checkpoint)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "measure", counting)
    return seen


# --- what comes out ----------------------------------------------------------------------------


def test_all_default_diagnostics_on_a_run_that_learns(tmp_path: Path) -> None:
    tree = analyze(write_run(tmp_path / "seed0"), "modadd", workers=1)
    run = only(tree)
    assert run["step"].values.tolist() == [0, 10, 20, 40, 80]
    assert set(run["status"].values) == {"ok"}
    assert run["accuracy"].sel(step=80, part="all") == 1
    assert run["accuracy"].dims == ("step", "part")
    assert run["symmetry_violation"].dims == ("step", "symmetry", "statistic")
    assert run["symmetry_instances"].dims == ("symmetry",)
    assert run["symmetry_violation"].sel(step=80, symmetry="translation", statistic="max") < 1e-6
    assert run["power"].dims == ("step", "matrix", "block")
    assert run["dimension"].sel(matrix="embedding", measure="effective_dimension").notnull().all()
    assert run["alignment"].isel(step=0).isnull().all()
    assert run["alignment_last"].sel(step=80, measure="procrustes") < 1e-6
    assert run["equivariant_share"].sel(step=80) == pytest.approx(1, abs=1e-6)
    assert "stage" in run
    assert run["stage_boundary"].sel(boundary="t_generalised") <= 80


def test_attributes_are_complete_and_plain(tmp_path: Path) -> None:
    tree = analyze(write_run(tmp_path / "seed0"), "modadd", analyzers=QUICK, workers=1)
    root, node = tree.attrs, only(tree).attrs
    assert root["task"] == node["task"] == f"modadd:p={P}"
    assert json.loads(root["task_parameters"]) == {"p": P}
    assert root["geomdiag_version"] == gd.__version__
    assert set(json.loads(root["configuration"])["analyzers"]) == set(QUICK)
    assert node["run"] == "seed0"
    assert node["split_source"] == root["split_source"] == "train_indices.npy"
    assert node["train_inputs"] == P * P // 2
    assert node["format"] == "safetensors"
    assert node["architecture"]
    assert json.loads(node["roles"])
    for attrs in (root, node):
        assert str(tmp_path) not in str(attrs)
        assert all(isinstance(value, str | int | float) for value in attrs.values())
    for name, variable in only(tree).variables.items():
        if name in ("step", *only(tree).dims):
            continue
        assert {"long_name", "units", "definition"} <= set(variable.attrs) or name in (
            "stage_evidence",
        )


def test_a_symmetry_that_is_left_out_is_told(tmp_path: Path) -> None:
    task = gd.task("comparison:2x2")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "dump.npz",
        logits=rng.normal(size=(len(task.inputs), 3)),
        embedding=rng.normal(size=(4, 3)),
        step=0,
    )
    tree = analyze(tmp_path / "dump.npz", task, workers=1)
    assert only(tree)["symmetry"].values.tolist() == ["antisymmetry"]
    assert "transitivity is left out: no attribute" in only(tree).attrs["notices"]
    assert (
        "left out"
        not in only(analyze(tmp_path / "dump.npz", task, analyzers=["fit"], workers=1)).attrs[
            "notices"
        ]
    )


def test_what_does_not_apply_is_named_with_its_reason(tmp_path: Path) -> None:
    tree = analyze(
        write_run(tmp_path / "r", split=False),
        "modsquare",
        analyzers=["fit", "progress"],
        workers=1,
    )
    run = only(tree)
    assert "share no group" in json.loads(run.attrs["not_applicable"])["progress"]
    assert "progress" not in json.loads(run.attrs["not_computed"])
    assert "logit_power" not in run
    assert run["part"].values.tolist() == ["all"]
    assert run.attrs["split_source"] == "unknown"


def test_paths_runs_series_and_lists_are_the_same(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b", steps=(0, 80))
    runs = gd.open_runs(tmp_path / "runs")
    whole = analyze(tmp_path / "runs", "modadd", analyzers=["fit"], workers=1)
    assert list(whole.children) == ["a", "b"]
    for given in (runs, list(runs.values()), [runs["a"], runs["b"]], str(tmp_path / "runs")):
        xr.testing.assert_identical(analyze(given, "modadd", analyzers=["fit"], workers=1), whole)
    one = analyze(runs["b"], gd.task(f"modadd:p={P}"), analyzers=["fit"], workers=1)
    xr.testing.assert_identical(one["b"].to_dataset(), whole["b"].to_dataset())


def test_the_folder_tells_runs_of_one_name_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "small", tmp_path / "large", tmp_path / "other"]
    for path, seed in zip(paths, ("seed=0", "seed=0", "seed=1"), strict=True):
        write_run(path / seed)
    tree = analyze(paths, "modadd", analyzers=["fit"], workers=1)
    assert list(tree.children) == ["small__seed=0", "large__seed=0", "seed=1"]
    opened = analyze(map(gd.open_runs, paths[:2]), "modadd", analyzers=["fit"], workers=1)
    assert [run.attrs["run"] for run in opened.children.values()] == [
        "small/seed=0",
        "large/seed=0",
    ]


def test_names_of_nodes_are_flat_and_unique() -> None:
    from geomdiag.analysis.plan import node_names

    assert node_names(["a/b", "a__b", "", "../x", "A/B", "p=7 [1]", "λ:2"]) == [
        "a__b",
        "a__b~2",
        "run",
        "x",
        "A__B~3",
        "p=7 [1]",
        "λ_2",
    ]


def test_words_that_are_wrong(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r")
    with pytest.raises(UnknownNameError, match="symmetry"):
        analyze(path, "modadd", analyzers=["symetry"])
    with pytest.raises(UnknownNameError, match="modadd"):
        analyze(path, "modad")
    with pytest.raises(TaskError, match="at least 2"):
        analyze(path, "modadd:p=1")
    with pytest.raises(ValueError, match="workers"):
        analyze(path, "modadd", workers=0)
    bad = tmp_path / "rows.npy"
    np.save(bad, np.array([10_000]))
    with pytest.raises(SplitError, match="10000"):
        analyze(path, "modadd", split=str(bad))


def test_a_split_can_be_given(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", split=False)
    run = only(
        analyze(path, "modadd", analyzers=["fit"], split="python:seed=0,fraction=0.4", workers=1)
    )
    assert run.attrs["train_inputs"] == int(0.4 * P * P)
    assert run["part"].values.tolist() == ["all", "train", "heldout"]


def test_a_wrong_split_beside_the_run_is_a_notice(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", split=False)
    np.save(path / "train_indices.npy", np.array([10_000]))
    run = only(analyze(path, "modadd", analyzers=["fit"], workers=1))
    assert "does not fit" in run.attrs["notices"]
    assert run["part"].values.tolist() == ["all"]


# --- failures are data -------------------------------------------------------------------------


def test_failures_are_rows(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r")
    broken = path / "step_20.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    bad = weights(0.5)
    bad["fc2.weight"][0, 0] = np.nan
    from safetensors.numpy import save_file

    save_file(bad, path / "step_40.safetensors", metadata={"step": "40"})
    run = only(analyze(path, "modadd", analyzers=[*QUICK, "alignment"], workers=1))
    assert run["status"].values.tolist() == ["ok", "ok", "failed", "failed", "ok"]
    assert "step_20" in run["error"].values[2]
    assert str(tmp_path) not in run["error"].values[2]
    assert "fc2.weight" in run["error"].values[3]
    for step in (20, 40):
        assert run["loss"].sel(step=step).isnull().all()
        assert run["alignment"].sel(step=step).isnull().all()
    assert run["loss"].sel(step=80).notnull().all()
    assert run["alignment"].sel(step=80, measure="procrustes").notnull()


def test_a_wrong_vocabulary_is_told_before_any_work(tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "r"), tmp_path / "r.zarr"
    analyze_into(out, path, "modadd", analyzers=QUICK, workers=1)
    before = content(out)
    with pytest.raises(TaskError, match=r"step_0.safetensors: .*modadd:p=11.*would fit p = 7"):
        analyze_into(out, path, "modadd:p=11", analyzers=QUICK, workers=1)
    assert content(out) == before
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_result_of_other_checkpoints_is_not_replaced(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a" / "seed0"), tmp_path / "b" / "seed0"
    other.mkdir(parents=True)
    write_step(other, 3, 0.4)
    out = tmp_path / "r.zarr"
    analyze_into(out, one, "modadd", analyzers=["fit"], workers=1)
    before = content(out)
    with pytest.raises(StoreError, match=r"other checkpoints \(of .*--force"):
        analyze_into(out, other, "modadd", analyzers=["fit"], workers=1)
    assert content(out) == before
    analyze_into(out, other, "modadd", analyzers=["fit"], workers=1, force=True)
    assert content(out) != before


def test_another_task_than_the_run_says_is_told(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r")
    (path / "config.json").write_text(json.dumps({"task": "modsub:p=7"}))
    run = only(analyze(path, "modadd", analyzers=["fit"], workers=1))
    assert "WARNING" in run.attrs["notices"]
    assert "modsub:p=7" in run.attrs["notices"]
    run = only(analyze(path, "modsub", analyzers=["fit"], workers=1))
    assert "WARNING" not in run.attrs["notices"]


def test_a_table_is_known_by_what_it_holds_not_by_where_it_lies(tmp_path: Path) -> None:
    path, here, there = write_run(tmp_path / "r"), tmp_path / "t.npy", tmp_path / "u.npy"
    out, fit = tmp_path / "o.zarr", {"analyzers": ["fit"], "workers": 1}
    table = gd.task("group:Z7").answers.reshape(7, 7)
    np.save(here, table)
    (path / "config.json").write_text(json.dumps({"task": gd.task(f"group:{here}").name}))
    here.rename(there)
    before = only(analyze_into(out, path, f"group:{there}", **fit))
    assert "WARNING" not in before.attrs["notices"]
    swap = np.array([1, 0, 2, 3, 4, 5, 6])
    np.save(there, swap[table[np.ix_(swap, swap)]])  # the elements 0 and 1 numbered otherwise
    with pytest.warns(UserWarning, match="no longer in it: the task group:"):
        after = only(analyze_into(out, path, f"group:{there}", **fit))
    assert "WARNING" in after.attrs["notices"]
    assert after["loss"].values.tolist() != before["loss"].values.tolist()


def test_accuracy_over_all_inputs_lies_between_those_recorded() -> None:
    dims, coords = ("step", "part"), {"step": [5, 6], "part": ["all"]}
    dataset = xr.Dataset({"accuracy": (dims, [[0.6], [0.02]])}, coords)
    curves = {"train_accuracy": np.array([1.0, 1.0]), "heldout_accuracy": np.array([0.3, 1.0])}
    attrs = compare(dataset, History(np.array([5, 6]), curves, "a test")).attrs
    (told,) = json.loads(attrs["disagreement"])
    assert (told["quantity"], told["step"], told["steps"]) == ("accuracy", 6, 1)
    fine = {**curves, "heldout_accuracy": np.array([0.3, 0.0])}
    assert not compare(dataset, History(np.array([5, 6]), fine, "a test")).attrs


def failing(snapshot: gd.Snapshot, task: gd.Task) -> xr.Dataset:
    if snapshot.step == 20:
        raise RuntimeError("no luck at 0x7f0012")
    return xr.Dataset({"luck": describe((), 1.0, "luck", "1", "constant")})


def undeclared(snapshot: gd.Snapshot, task: gd.Task) -> xr.Dataset:
    return xr.Dataset({"other": ((), 1.0)})


def test_a_diagnostic_that_fails_makes_the_row_partial(tmp_path: Path) -> None:
    luck = Analyzer("luck", failing, variables=("luck",))
    run = only(analyze(write_run(tmp_path / "r"), "modadd", analyzers=["fit", luck], workers=1))
    assert run["status"].values.tolist() == ["ok", "ok", "partial", "ok", "ok"]
    assert run["error"].values[2] == "luck: RuntimeError: no luck"
    np.testing.assert_array_equal(run["luck"], [1, 1, np.nan, 1, 1])
    assert run["loss"].sel(step=20).notnull().all()


def test_undeclared_variables_are_refused(tmp_path: Path) -> None:
    other = Analyzer("other", undeclared, variables=("one",))
    run = only(analyze(write_run(tmp_path / "r"), "modadd", analyzers=["fit", other], workers=1))
    assert "does not declare" in run["error"].values[0]


# --- finished steps ----------------------------------------------------------------------------


def test_finished_steps_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write_run(tmp_path / "r"), tmp_path / "r.zarr"
    seen = count_steps(monkeypatch)
    options = {"analyzers": [*QUICK, "alignment"], "workers": 1}
    first = analyze_into(out, path, "modadd", **options)
    assert seen == [0, 10, 20, 40, 80]
    bytes_before = content(out)
    seen.clear()
    second = analyze_into(out, path, "modadd", **options)
    assert seen == []
    xr.testing.assert_identical(first, second)
    assert content(out) == bytes_before

    write_step(path, 90, 0.95)
    write_step(path, 20, 0.2)  # other weights than before
    analyze_into(out, path, "modadd", **options)
    assert seen == [20, 90]
    fresh = analyze_into(tmp_path / "fresh.zarr", path, "modadd", **options)
    xr.testing.assert_identical(store.load(out), fresh)
    assert content(out) == content(tmp_path / "fresh.zarr")

    seen.clear()
    analyze_into(out, path, "modadd", force=True, **options)
    assert len(seen) == 6


@pytest.mark.parametrize("change", ["task", "analyzers", "split", "config"])
def test_another_configuration_computes_anew(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_run(tmp_path / "r"), tmp_path / "r.zarr"
    analyze_into(out, path, "modadd", analyzers=["fit"], workers=1)
    seen = count_steps(monkeypatch)
    task, analyzers = "modadd", ["fit"]
    if change == "task":
        task = "modsub"
    elif change == "analyzers":
        analyzers = ["fit", "symmetry"]
    elif change == "split":
        np.save(path / "train_indices.npy", np.arange(10))
    else:
        (path / "config.json").write_text(json.dumps({"act_fn": "relu"}))
    told = pytest.warns(UserWarning, match="modadd") if change == "task" else nullcontext()
    with told:
        analyze_into(out, path, task, analyzers=analyzers, workers=1)
    assert len(seen) == 5


def test_what_a_result_no_longer_holds_is_told(tmp_path: Path) -> None:
    one, two, out = write_run(tmp_path / "one"), write_run(tmp_path / "two"), tmp_path / "r.zarr"
    options = {"workers": 1}
    analyze_into(out, [one, two], "modadd", analyzers=["fit", "dimension"], **options)
    with pytest.warns(UserWarning, match="no longer in it: the run 'two', dimension, norm"):
        analyze_into(out, one, "modadd", analyzers=["fit"], **options)


def test_an_edited_model_is_run_again_and_a_mistyped_one_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_run(tmp_path / "r"), tmp_path / "r.zarr"
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "edited_model.py"
    text = "def make(tensors):\n    return lambda inputs: -((inputs.sum(1, True) - K) % 7) ** 2.0\n"
    module.write_text("import torch\nK = torch.arange(7)\n" + text)
    options: dict[str, Any] = {"model": "edited_model:make", "analyzers": ["fit"], "workers": 1}
    analyze_into(out, path, "modadd:p=7", **options)
    seen = count_steps(monkeypatch)
    analyze_into(out, path, "modadd:p=7", **options)
    assert not seen
    module.write_text(module.read_text() + "# changed\n")
    analyze_into(out, path, "modadd:p=7", **options)
    assert len(seen) == 5
    before = content(out)
    with pytest.raises(ArchitectureError, match="edited_modell"):
        analyze_into(out, path, "modadd:p=7", **{**options, "model": "edited_modell:make"})
    assert content(out) == before


@pytest.mark.parametrize(
    ("stored", "again", "told"),
    [
        (1.32e-7, 1.57e-7, False),  # rounding
        (8.86e-8, 1.62e-7, True),  # another split
        (1e-10, 9e-10, False),  # nothing but rounding
        (2.0e-4, 2.01e-4, False),
        (2.0e-4, 2.03e-4, True),
    ],
)
def test_disagreement_of_small_losses(stored: float, again: float, told: bool) -> None:
    dataset = xr.Dataset({"loss": (("step", "part"), [[again]])}, {"step": [5], "part": ["train"]})
    history = History(np.array([5]), {"train_loss": np.array([stored])}, "a test")
    assert ("disagreement" in compare(dataset, history).attrs) is told


def test_a_failed_step_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write_run(tmp_path / "r"), tmp_path / "r.zarr"
    luck = Analyzer("luck", failing, variables=("luck",))
    broken = path / "step_20.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-100])
    analyze_into(out, path, "modadd", analyzers=["fit"], workers=1)
    seen = count_steps(monkeypatch)
    analyze_into(out, path, "modadd", analyzers=["fit"], workers=1)
    assert seen == [20]
    broken.write_bytes(whole)
    run = only(analyze_into(out, path, "modadd", analyzers=["fit"], workers=1))
    assert set(run["status"].values) == {"ok"}
    assert luck.version == 1


def test_a_killed_analysis_takes_up_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_run(tmp_path / "r"), tmp_path / "r.zarr"

    def stop(done: int, total: int, label: str) -> None:
        assert total == 5
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_into(out, path, "modadd", workers=1, progress=stop)
    assert not out.exists()
    assert (tmp_path / ".r.zarr.partial").is_dir()
    seen = count_steps(monkeypatch)
    resumed = analyze_into(out, path, "modadd", workers=1)
    assert seen == [40, 80]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["r", "r.zarr"]
    xr.testing.assert_identical(resumed, analyze(path, "modadd", workers=1))


def test_an_unwritable_output_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "r")
    (tmp_path / "file").write_text("")
    seen = count_steps(monkeypatch)
    with pytest.raises(StoreError, match="cannot write"):
        analyze_into(tmp_path / "file" / "r.zarr", path, "modadd", workers=1)
    with pytest.raises(StoreError, match="no geomdiag result"):
        analyze_into(path, path, "modadd", workers=1)
    assert seen == []


# --- workers -----------------------------------------------------------------------------------

SCRIPT = """
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from geomdiag.analysis import analyze_into
print("main runs")
analyze_into(sys.argv[2], sys.argv[1], "modadd", workers=int(sys.argv[3]))
"""


def test_two_workers_give_the_bytes_of_one_even_from_a_script_without_a_guard(
    tmp_path: Path,
) -> None:
    path = write_run(tmp_path / "runs" / "a", steps=(0, 10, 40, 80))
    write_run(tmp_path / "runs" / "b", steps=(0, 80))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, path.parent, tmp_path / "2.zarr", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "main runs\n"
    assert done.stderr == ""
    analyze_into(tmp_path / "1.zarr", path.parent, "modadd", workers=1)
    assert content(tmp_path / "1.zarr") == content(tmp_path / "2.zarr")


def test_torch_gets_its_threads_back(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        analyze(write_run(tmp_path / "r"), "modadd", analyzers=["fit"], workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def die(plan: object, number: int) -> int:
    import os
    import time

    if number == 1:
        time.sleep(0.2)
        os._exit(1)
    return number * 10


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_own_job_only() -> None:
    from geomdiag.analysis.crew import Crew, WorkerDiedError

    with Crew([None], workers=2) as crew:
        results = dict(crew.run(die, [(0, number) for number in range(4)]))
    assert isinstance(results.pop(1), WorkerDiedError)
    assert results == {0: 0, 2: 20, 3: 30}


def threads(plan: object) -> list[int]:
    import torch
    from threadpoolctl import threadpool_info

    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


@pytest.mark.slow
def test_a_worker_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from geomdiag.analysis.crew import Crew

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with Crew([None], workers=2) as crew:
        for _, counts in crew.run(threads, [(0,), (0,)]):
            assert set(counts) == {1}


def held_signals(plan: object) -> set[signal.Signals | int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held")
def test_a_worker_leaves_ctrl_c_to_its_parent_from_its_first_moment_on() -> None:
    from geomdiag.analysis.crew import Crew

    before = held_signals(None)
    assert signal.SIGINT not in before
    with Crew([None], workers=2) as crew:
        ((_, held),) = crew.run(held_signals, [(0,)])
    assert signal.SIGINT in held
    assert held_signals(None) == before


ORPHAN = """
import sys, time
sys.path[:0] = sys.argv[2:]
from geomdiag.analysis.crew import Crew
from test_analyze_runs import linger
with Crew([None], workers=2) as crew:
    list(crew.run(linger, [(0, sys.argv[1]), (0, sys.argv[1])]))
"""


def linger(plan: object, folder: str) -> None:
    import os
    import time

    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill as on Unix")
def test_workers_go_when_their_parent_is_killed(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path), *paths])
    try:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        parent.kill()
        parent.wait()
    workers = [int(file.name) for file in tmp_path.iterdir()]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_crew_of_one_takes_what_cannot_travel() -> None:
    from geomdiag.analysis.crew import Crew

    with Crew([lambda: 7], workers=4) as crew:
        results = dict(crew.run(lambda plan, x: plan() + x, [(0, 1), (0, 2)]))
    assert results == {0: 8, 1: 9}


# --- agreement ---------------------------------------------------------------------------------


def test_recorded_values_that_agree_and_that_do_not(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r")
    run = only(analyze(path, "modadd", analyzers=["fit"], workers=1))
    assert "disagreement" not in run
    right = {
        "train_loss": run["loss"].sel(part="train").values,
        "test_loss": run["loss"].sel(part="heldout").values.copy(),
        "train_acc": run["accuracy"].sel(part="train").values,
    }
    write_run(path, history=right)
    run = only(analyze(path, "modadd", analyzers=["fit"], workers=1))
    assert run["recorded"].dims == ("step", "quantity")
    assert float(run["disagreement"].max()) < 1e-6
    assert "disagreement" not in run.attrs

    right["test_loss"][1] *= 1.05
    right["test_loss"][2] *= 1.02
    write_run(path, history=right)
    run = only(analyze(path, "modadd", analyzers=["fit"], workers=1))
    (verdict,) = json.loads(run.attrs["disagreement"])
    assert verdict["quantity"] == "heldout_loss"
    assert (verdict["step"], verdict["steps"], verdict["compared"]) == (10, 2, 5)
    assert "step 10" in verdict["text"]
    assert float(run["disagreement"].sel(step=10, quantity="heldout_loss")) == pytest.approx(
        1 - 1 / 1.05
    )


# --- a model of the user's own -----------------------------------------------------------------


def test_a_callable_model(tmp_path: Path) -> None:
    def factory(state: dict[str, np.ndarray]) -> object:
        first, second = np.asarray(state["fc1.weight"]), np.asarray(state["fc2.weight"])

        def run(inputs: np.ndarray) -> np.ndarray:
            inputs = np.asarray(inputs)
            hidden = first[:, inputs[:, 0]] + first[:, P + inputs[:, 1]]
            return (second @ hidden**2).T

        return run

    path = write_run(tmp_path / "r")
    own = only(analyze(path, "modadd:p=7", analyzers=["fit", "dimension"], model=factory))
    known = only(analyze(path, "modadd", analyzers=["fit"], workers=1))
    xr.testing.assert_allclose(own["loss"], known["loss"], rtol=1e-4)
    assert "dimension" in json.loads(own.attrs["not_computed"])


# --- real runs ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_series_agrees_with_its_reference(real_data: Path) -> None:
    folder = real_data / "yagent-p23"
    (run_folder,) = folder.glob("*decay_2.0*")
    run = only(
        analyze(
            run_folder, "modadd", analyzers=["fit", "symmetry", "dimension", "spectrum", "progress"]
        )
    )
    with (folder / "yagent_p23_grok_reference.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["epoch"]) for row in rows]
    run = run.sel(step=steps)
    for column, found, tolerance in (
        ("translation_violation", run["equivariance_error"].sel(operand="left"), 1e-5),
        ("neuron_IPR", run["concentration"].sel(matrix="embedding", measure="neuron_ipr"), 1e-6),
        ("erank_s", run["dimension"].sel(matrix="embedding", measure="entropy_rank"), 1e-2),
        ("test_acc", run["accuracy"].sel(part="heldout"), 0.016),
        ("test_loss_stored", run["loss"].sel(part="heldout"), 0.01),
    ):
        expected = [float(row[column]) for row in rows]
        np.testing.assert_allclose(found, expected, rtol=tolerance, err_msg=column)
    assert float(run["coverage"].sel(symmetry="commutativity")) == pytest.approx(0.7068, abs=5e-5)
    assert float(run["stage_boundary"].sel(boundary="t_memorised")) == 2200
    assert np.isnan(run["stage_boundary"].sel(boundary="t_generalised"))
