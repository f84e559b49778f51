"""Numbers that the authors of real checkpoints published come out of the ordinary command.

One analysis a folder; every number is read from the written result. What is said of a file
here stands in the README beside the files (see `real_data` in tests/conftest.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from ordinary_command import Analysed, Command

GROKKING = "yagent-p23/p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"
AT_ONCE = "yagent-p23/p_23_dmlp_512_ReLU_random_scale_0.1_decay_0_11122351"


def top(run: xr.Dataset, count: int, matrix: str = "embedding", row: int = -1) -> set[int]:
    """Return the strongest frequencies of a matrix."""
    power = run["power"].sel(matrix=matrix).isel(step=row)
    strongest = power["block"].values[np.argsort(-power.values)[:count]]
    return {int(label.removeprefix("k=")) for label in strongest}


def number(run: xr.Dataset, variable: str, row: int = -1, **where: str) -> float:
    """Return one number of a run."""
    return float(run[variable].sel(where).isel(step=row))


# --- nanda-code-p113 ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baseline(analyse: Command, real_data: Path) -> Analysed:
    path = real_data / "nanda-code-p113" / "baseline.pt"
    return analyse(path, "modadd:p=113", "--split", "python:seed=0,fraction=0.3")


def test_nanda_baseline(baseline: Analysed) -> None:
    assert baseline.code == 0, baseline.words
    run = baseline.run()
    assert top(run, 5) == {14, 35, 41, 42, 52}
    keys = run["key_block"].sel(matrix="embedding").isel(step=0)
    assert set(keys["block"].values[keys.values]) == {f"k={k}" for k in (14, 35, 41, 42, 52)}
    assert number(run, "concentration", matrix="embedding", measure="top5") == pytest.approx(
        0.789, abs=5e-4
    )
    assert number(run, "concentration", matrix="neuron_logit", measure="top5") == pytest.approx(
        0.965, abs=5e-4
    )
    assert top(run, 5, "neuron_logit") == {14, 35, 41, 42, 52}
    assert number(
        run, "dimension", matrix="neuron_logit", measure="entropy_rank_squared"
    ) == pytest.approx(9.92, abs=0.005)
    assert number(run, "loss", part="heldout") == pytest.approx(2.0097e-4, rel=1e-4)
    assert number(run, "accuracy", part="all") == 1
    assert run.attrs["train_inputs"] == 3830
    assert run.attrs["split_source"] == "python:seed=0,fraction=0.3"


def test_nanda_baseline_agrees_with_what_it_recorded(baseline: Analysed) -> None:
    assert "DISAGREE" not in baseline.words
    assert "disagreement" not in baseline.run().attrs


def test_a_wrong_split_is_told_loudly(analyse: Command, real_data: Path) -> None:
    path = real_data / "nanda-code-p113" / "baseline.pt"
    done = analyse(
        path, "modadd:p=113", "--split", "numpy:seed=0,fraction=0.3", "--analyzers", "fit"
    )
    assert "STORED AND RECOMPUTED VALUES DISAGREE" in done.words
    (told,) = (
        one
        for one in json.loads(done.run().attrs["disagreement"])
        if one["quantity"] == "heldout_loss"
    )
    assert told["stored"] == pytest.approx(2.0097e-4, rel=1e-4)


def test_nanda_without_weight_decay(analyse: Command, real_data: Path) -> None:
    """Generalisation without a sparse spectrum."""
    path = real_data / "nanda-code-p113" / "mod_addition_no_wd.pth"
    done = analyse(path, "modadd:p=113", "--analyzers", "fit,dimension,spectrum")
    assert done.code == 0, done.words
    run = done.run()
    assert number(run, "accuracy", part="all") == 1
    assert number(run, "concentration", matrix="embedding", measure="top5") == pytest.approx(
        0.47, abs=0.005
    )
    assert number(run, "dimension", matrix="embedding", measure="entropy_rank") == pytest.approx(
        85, abs=0.5
    )


# --- yagent-p23 --------------------------------------------------------------------------------


def reference(real_data: Path) -> xr.Dataset:
    table = np.genfromtxt(
        real_data / "yagent-p23" / "yagent_p23_grok_reference.csv", delimiter=",", names=True
    )
    columns = {name: ("step", table[name]) for name in table.dtype.names if name != "epoch"}
    return xr.Dataset(columns, {"step": table["epoch"].astype(np.int64)})


def held_against(run: xr.Dataset, table: xr.Dataset) -> None:
    """Compare every column of the authors' table with the result."""
    both = np.intersect1d(run["step"], table["step"])
    run, table = run.sel(step=both), table.sel(step=both)
    for part, author in (("train", "train"), ("heldout", "test")):
        # the author's losses are those of a GPU
        np.testing.assert_allclose(
            run["loss"].sel(part=part), table[f"{author}_loss_stored"], rtol=0.005
        )
        np.testing.assert_allclose(
            run["accuracy"].sel(part=part), table[f"{author}_acc"], atol=1e-6
        )
    for operand in ("left", "right"):
        # a forward pass in single precision, whose rounding depends on the processor
        np.testing.assert_allclose(
            run["equivariance_error"].sel(operand=operand),
            table["translation_violation"],
            rtol=1e-6,
        )
    for matrix in ("embedding", "neuron_input"):
        spectra = run["concentration"].sel(matrix=matrix)
        np.testing.assert_allclose(
            spectra.sel(measure="neuron_ipr"), table["neuron_IPR"], rtol=1e-9
        )
        ranks = run["dimension"].sel(matrix=matrix)
        np.testing.assert_allclose(ranks.sel(measure="entropy_rank"), table["erank_s"], rtol=1e-9)
        np.testing.assert_allclose(
            ranks.sel(measure="entropy_rank_squared"), table["erank_s2"], rtol=1e-9
        )


EPOCHS = (0, 200, 1600, 1800, 2200, 5000, 10_200, 10_400, 14_600, 30_000, 49_800)


@pytest.fixture(scope="module")
def some(analyse: Command, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """A dozen of the 251 checkpoints, in a folder as the author left it."""
    folder = tmp_path_factory.mktemp("some") / Path(GROKKING).name
    folder.mkdir()
    names = (*(f"{epoch}.pth" for epoch in EPOCHS), "final.pth", "train_data.pth", "test_data.pth")
    for name in names:
        shutil.copyfile(real_data / GROKKING / name, folder / name)
    return analyse(folder, "modadd:p=23", "--analyzers", "fit,symmetry,dimension,spectrum,progress")


@pytest.fixture(scope="module")
def whole(analyse: Command, real_data: Path) -> Analysed:
    return analyse(real_data / GROKKING, "modadd:p=23")


def of_the_grokking_run(done: Analysed, table: xr.Dataset) -> None:
    assert done.code == 0, done.words
    run = done.run()
    assert run["step"].values[-1] == 50_000  # final.pth
    held_against(run, table)
    train, heldout = (run["accuracy"].sel(part=part) for part in ("train", "heldout"))
    assert int(run["step"][(train >= 0.95).values.argmax()]) == 1800
    assert int(run["step"][(heldout >= 0.95).values.argmax()]) == 10_400
    assert not (heldout >= 0.99).any()
    assert np.isnan(run["stage_boundary"].sel(boundary="t_generalised"))
    assert number(run, "accuracy", part="train") == 1
    # the swap leak: the share of held-out pairs whose swap was trained on is the shelf
    assert float(run["coverage"].sel(symmetry="commutativity")) == pytest.approx(0.7068, abs=5e-5)
    assert float(run["coverage"].sel(symmetry="translation")) == 1
    assert float(heldout.sel(step=5000)) == pytest.approx(0.7068, abs=5e-5)
    covered = run["covered_accuracy"].sel(symmetry="commutativity", step=5000)
    assert covered.sel(covered="covered") == 1
    assert covered.sel(covered="uncovered") == 0
    assert bool(run["symmetry_architectural"].sel(symmetry="commutativity"))
    assert (run["symmetry_violation"].sel(symmetry="commutativity") == 0).all()
    # one stored accuracy is two inputs off what the checkpoint answers
    assert "STORED AND RECOMPUTED VALUES DISAGREE" in done.words
    (told,) = json.loads(run.attrs["disagreement"])
    assert (told["quantity"], told["step"], told["steps"]) == ("heldout_accuracy", 14_600, 1)
    assert told["recomputed"] - told["stored"] == pytest.approx(2 / 133)


def test_grokking_series_by_stride(some: Analysed, real_data: Path) -> None:
    of_the_grokking_run(some, reference(real_data))


@pytest.mark.slow
def test_grokking_series_whole(whole: Analysed, real_data: Path) -> None:
    table = reference(real_data)
    of_the_grokking_run(whole, table)
    run = whole.run()
    assert len(run["step"]) == 251
    assert set(table["step"].values) < set(run["step"].values)
    assert (run["status"] == "ok").all()
    boundary = run["stage_boundary"]
    assert float(boundary.sel(boundary="t_memorised")) == 2200
    assert np.isnan(boundary.sel(boundary=["t_generalised", "t_geometry", "t_solved"])).all()
    # the embedding spectrum as a whole stays flat while each neuron becomes sparse
    flat = run["concentration"].sel(matrix="embedding", measure="top5")
    assert float(flat.max()) < 0.6
    shelf = run["accuracy"].sel(part="heldout", step=slice(2200, 5400))
    np.testing.assert_allclose(shelf, 0.7068, atol=5e-5)


def test_translation_violation_falls_as_published(some: Analysed) -> None:
    run = some.run()
    error = run["equivariance_error"].sel(operand="left")
    assert float(error[0]) == pytest.approx(1.03, abs=0.005)
    assert float(error.sel(step=49_800)) == pytest.approx(0.145, abs=0.001)
    sparse = run["concentration"].sel(matrix="neuron_input", measure="neuron_ipr")
    assert float(sparse[0]) == pytest.approx(0.169, abs=5e-4)
    assert float(sparse.sel(step=49_800)) == pytest.approx(0.801, abs=0.001)


def test_series_that_generalises_at_once(analyse: Command, real_data: Path) -> None:
    done = analyse(real_data / AT_ONCE, "modadd:p=23", "--analyzers", "fit,symmetry,dimension")
    assert done.code == 0, done.words
    run = done.run()
    assert run["step"].values.tolist() == list(range(0, 5001, 200))
    accuracy = run["accuracy"].sel(part="all")
    assert float(accuracy.sel(step=200)) > 0.9
    assert (accuracy.sel(step=slice(1400, None)) == 1).all()
    # all pairs were trained on, and no file says so: no memorisation, no delay
    assert np.isnan(run["stage_boundary"].sel(boundary=["t_memorised", "t_generalised"])).all()
    assert run["stage_order"].item().startswith("cannot be told: no train")
    assert not (run["stage"] == 1).any()


# --- porth-p97 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def porth(analyse: Command, real_data: Path) -> Analysed:
    # which of the studies' generators drew the split is not on record: this one fits
    return analyse(real_data / "porth-p97", "modadd:p=97", "--split", "torch:seed=0,fraction=0.3")


def test_porth(porth: Analysed, real_data: Path) -> None:
    assert porth.code == 0, porth.words
    run = porth.run()
    assert run["step"].values.tolist() == [100, 11_100]
    shares = run["concentration"].sel(matrix="embedding", measure="top5")
    np.testing.assert_allclose(shares, [0.136, 0.567], atol=5e-4)
    assert top(run, 5) == {5, 14, 20, 36, 37}
    np.testing.assert_allclose(run["accuracy"].sel(part="all"), [0.414, 1.0], atol=5e-4)
    table = np.genfromtxt(
        real_data / "porth-p97" / "p97_frac0.30_wd1_seed0.csv", delimiter=",", names=True
    )
    for row, step in enumerate((100, 11_100)):
        stored = table[table["step"] == step][0]
        for part, name in (("train", "train_loss"), ("heldout", "test_loss")):
            assert number(run, "loss", row, part=part) == pytest.approx(stored[name], rel=0.01)
    assert "DISAGREE" not in porth.words


# --- clock-pizza -------------------------------------------------------------------------------

CLOCKS = "fit,spectrum,progress,circle,gradient"


def of_a_clock_or_pizza(run: xr.Dataset, name: str) -> None:
    circularity, irrelevance, symmetricity, sampled = {
        "p99zdpze5l": (0.9978, 0.1717, 0.9937, 1e-4),
        "l8k1hzciux": (0.9989, 0.85, 0.3336, 0.042),
        "h9m153uuh9": (0.9998, None, 0.9974, 4e-4),
        "p71frej8t7": (None, 0.2302, None, 0.0),
    }[name]
    assert number(run, "accuracy", part="all") == 1
    if circularity is not None:
        assert number(run, "pizza_circularity", matrix="embedding") == pytest.approx(
            circularity, abs=5e-5
        )
    if irrelevance is not None:
        digits = 0.005 if irrelevance == 0.85 else 5e-5
        assert number(run, "distance_irrelevance") == pytest.approx(irrelevance, abs=digits)
    if symmetricity is not None:
        # the published ones are means over 100 random triples: within one of their standard
        # errors (which is that of the cosine over all triples, a tenth of its spread)
        assert number(run, "gradient_symmetricity") == pytest.approx(symmetricity, abs=sampled)


@pytest.mark.parametrize("name", ["p99zdpze5l"])
def test_clock_alone(analyse: Command, real_data: Path, name: str) -> None:
    path = real_data / "clock-pizza" / f"model_{name}.pt"
    done = analyse(path, "modadd:p=59", "--analyzers", "fit,circle,gradient,progress")
    assert done.code == 0, done.words
    of_a_clock_or_pizza(done.run(), name)


@pytest.mark.slow
def test_clock_and_pizza(analyse: Command, real_data: Path) -> None:
    done = analyse(real_data / "clock-pizza", "modadd:p=59", "--analyzers", CLOCKS)
    assert done.code == 0, done.words
    for name in ("p99zdpze5l", "l8k1hzciux", "h9m153uuh9", "p71frej8t7"):
        of_a_clock_or_pizza(done.run(f"model_{name}"), name)
    untrained = done.run("model_f5dh675z97")
    assert number(untrained, "accuracy", part="all") == pytest.approx(1 / 59, abs=0.005)
    assert not untrained["key_block"].any()
    assert number(untrained, "concentration", matrix="embedding", measure="top1") < 0.1
    assert number(untrained, "equivariant_share") < 0.05


# --- group-composition, the cyclic group -------------------------------------------------------

FREQUENCIES = range(1, 57)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        # their embeddings of the MLP are what reaches the neurons; their unembedding of the
        # transformer is that of its neurons
        (
            "C113_MLP_seed1",
            {"x_embed": "neuron_input", "y_embed": "neuron_input_right", "unembed": "unembedding"},
        ),
        ("C113_T_seed1", {"x_embed": "embedding", "unembed": "neuron_logit"}),
    ],
)
def test_group_composition(
    analyse: Command, real_data: Path, name: str, places: dict[str, str]
) -> None:
    folder = real_data / "group-composition" / name
    summary = json.loads((folder / "summary_metrics.json").read_text())
    # the configuration names seed and fraction; of the generators this one fits
    done = analyse(
        folder, "modadd:p=113", "--split", "torch:seed=1,fraction=0.3",
        "--analyzers", "fit,spectrum,progress",
    )  # fmt: skip
    assert done.code == 0, done.words
    run = done.run()
    for part, key in (("all", "all_loss"), ("train", "train_loss"), ("heldout", "test_loss")):
        assert number(run, "loss", part=part) == pytest.approx(summary[key], rel=0.01)
        assert number(run, "accuracy", part=part) == 1
    for key, matrix in places.items():
        theirs = np.array([summary[f"percent_{key}_freq_{k}_rep"] for k in FREQUENCIES])
        trivial = summary[f"percent_{key}_trivial_rep"]
        # theirs are shares of everything, ours of all but the constants
        ours = run["power"].sel(matrix=matrix).isel(step=-1) * (1 - trivial)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # theirs is the cosine between the logits and the character of x + y − z, ours its square
    similar = np.array([summary[f"logit_freq_{k}_rep_trace_similarity"] for k in FREQUENCIES])
    np.testing.assert_allclose(run["logit_power"].isel(step=-1), similar**2, atol=1e-6)
    key_reps = {int(x.split("_")[1]) for x in (folder / "key_reps.txt").read_text().split()}
    learnt = {int(x.split("_")[1]) for x in (folder / "key_reps_in_order.txt").read_text().split()}
    strongest = run["logit_power"].isel(step=-1)
    found = {k for k in FREQUENCIES if float(strongest.sel(block=f"k={k}")) > 0.01}
    assert found <= key_reps
    assert found <= learnt


# --- odd-files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("finetuned_model_0.pth", "its vocabulary has 26 rows"),
        ("finetuned_model_100.pth", "its vocabulary has 26 rows"),
        ("numpy_pickle.pth", "not a network's checkpoint"),
        ("lfs_pointer.pt", "git lfs pull"),
    ],
)
def test_odd_file_is_refused(analyse: Command, real_data: Path, name: str, words: str) -> None:
    done = analyse(real_data / "odd-files" / name, "modadd:p=113")
    assert done.code == 2
    assert words in done.words
    assert name in done.words
    assert not done.out.exists()


def test_settings_of_an_unknown_class_are_read_without_it(
    analyse: Command, real_data: Path
) -> None:
    """A recursive model: its embedding is analysed, and why nothing else is stands in words."""
    done = analyse(real_data / "odd-files" / "custom_dataclass.pt", "modadd:p=113")
    assert done.code == 0
    run = done.run("custom_dataclass")
    assert run["step"].values.tolist() == [50_000]
    assert "dimension" in run
    assert "loss" not in run
    assert "how often its levels run" in done.words


@pytest.fixture(scope="module")
def odd(analyse: Command, real_data: Path) -> Analysed:
    return analyse(real_data / "odd-files", "modadd:p=113", "--analyzers", "fit")


def test_one_storage_under_every_step(odd: Analysed) -> None:
    assert "all 69 checkpoints hold bit-identical weights" in odd.words
    run = odd.run("[Task: ADD] from scratch")
    assert len(run["step"]) == 69
    assert (run["status"] == "ok").all()
    assert "bit-identical" in run.attrs["notices"]
    assert len(np.unique(run["loss"].sel(part="all"))) == 1


def test_odd_files_together(odd: Analysed) -> None:
    """What can be read is analysed, the rest is told; the exit code says so."""
    assert odd.code == 3
    for name in ("finetuned_model", "lfs_pointer"):
        run = odd.run(name)
        assert set(run["status"].values.tolist()) == {"failed"}
        assert name in run["error"].values[0]
    assert "numpy_pickle.pth" in odd.words
