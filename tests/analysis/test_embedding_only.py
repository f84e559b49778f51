"""An embedding analysed by itself: known answers, cost, and what an earlier result may give."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from run_maker import write_run
from safetensors.numpy import load_file, save_file

from geomdiag import analyze, analyze_into, inspect_runs
from geomdiag.errors import OptionsError, TaskError
from geomdiag.models.tokens import NAMED_SETS

WIDTH = 24
TOKENS = [71, 5, 93, 40, 41, 42, 8, 99, 64, 17, 23, 58]
LOGITS = {"fit", "symmetry", "progress"}
DEFAULT = ["dimension", "spectrum", "circle", "helix", "distortion", "fit", "symmetry", "progress"]


def circle(turns: int = 1, count: int = 12, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Return points on a circle of a random plane, one step apart each."""
    rng = np.random.default_rng(seed)
    plane, _ = np.linalg.qr(rng.standard_normal((width, 2)))
    angle = 2 * np.pi * turns * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) @ plane.T


def language_model(folder: Path, step: int = 1, turns: int = 1, noise: int = 0) -> Path:
    """Write a checkpoint with GPT-2's names; twelve of its tokens lie on a circle."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(noise)
    table = rng.standard_normal((100, WIDTH))
    table[TOKENS] = circle(turns)
    state = {
        "transformer.wte.weight": table.astype(np.float32),
        "transformer.wpe.weight": rng.standard_normal((30, WIDTH)).astype(np.float32),
        "transformer.h.0.ln_1.weight": np.ones(WIDTH, np.float32),
    }
    path = folder / f"step_{step}.safetensors"
    save_file(state, path)
    return path


def vocabulary(folder: Path) -> Path:
    words = {f"<{token}>": token for token in range(100) if token not in TOKENS}
    words |= {"Ġ" + word: at for word, at in zip(NAMED_SETS["months"], TOKENS, strict=True)}
    path = folder / "vocab.json"
    path.write_text(json.dumps(words), encoding="utf-8")
    return path


def only(tree: xr.DataTree) -> xr.DataTree:
    (node,) = tree.children.values()
    return node


def assert_is_the_circle(node: xr.DataTree, block: str = "k=1") -> None:
    found = node.to_dataset().isel(step=0).sel(matrix="embedding")
    assert float(found["power"].sel(block=block)) == pytest.approx(1, abs=1e-6)
    keys = found["key_block"].fillna(0).astype(bool)
    assert keys["block"].values[keys.values].tolist() == [block]
    fit = found["circle"].sel(block=block)
    for measure in ("axis_ratio", "circularity", "in_plane_share"):
        assert float(fit.sel(measure=measure)) == pytest.approx(1, abs=1e-5)
    assert float(fit.sel(measure="phase_error")) == pytest.approx(0, abs=1e-4)
    dimension = found["dimension"].sel(measure="effective_dimension")
    assert float(dimension) == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("said", ["months", ",".join(map(str, TOKENS)), TOKENS])
def test_the_months_of_a_language_model_are_a_circle(said: Any, tmp_path: Path) -> None:
    path = language_model(tmp_path)
    vocabulary(tmp_path)
    tree = analyze(path, "group:Z12", tokens=said, workers=1, analyzers=[*DEFAULT, "topology"])
    node = only(tree)
    assert_is_the_circle(node)
    assert node.attrs["architecture"] == "embedding only"
    assert json.loads(node.attrs["roles"]) == {"embedding": "transformer.wte.weight"}
    assert json.loads(node.attrs["tokens"])["ids"] == TOKENS
    assert node.attrs["task"] == "group:Z12"
    reasons = json.loads(node.attrs["not_computed"])
    assert set(reasons) == LOGITS
    assert all("larger vocabulary" in reason for reason in reasons.values())
    assert not {"accuracy", "loss", "symmetry_violation"} & set(node.data_vars)
    assert str(node["status"].values[0]) == "ok"
    holes = node["holes"].isel(step=0).sel(matrix="embedding")
    assert int(holes.sel(homology="H1")) == 1


def test_the_order_of_the_tokens_is_the_order_of_the_elements(tmp_path: Path) -> None:
    path = language_model(tmp_path)
    five_steps = [TOKENS[5 * at % 12] for at in range(12)]
    tree = analyze(path, "group:Z12", tokens=five_steps, workers=1, analyzers=DEFAULT)
    assert_is_the_circle(only(tree), "k=5")


def test_a_task_of_an_order_and_the_count_from_the_tokens(tmp_path: Path) -> None:
    path = language_model(tmp_path)
    half = only(analyze(path, "comparison:6", tokens=TOKENS[:6], workers=1, analyzers=["order"]))
    tau = half["order"].isel(step=0).sel(measure="kendall_tau")
    assert float(np.abs(tau).max()) > 0.9  # half a turn goes one way
    told = only(analyze(path, "modadd", tokens=TOKENS, workers=1, analyzers=["dimension"]))
    assert told.attrs["task"] == "modadd:p=12"
    with pytest.raises(OptionsError, match=r"12 tokens were given .* has 7 elements"):
        analyze(path, "group:Z7", tokens=TOKENS, workers=1)
    with pytest.raises(TaskError, match="no rows for token 400"):
        analyze(path, "group:Z12", tokens=[*TOKENS[:11], 400], workers=1)


def test_other_tokens_never_extend_a_result(tmp_path: Path) -> None:
    path = language_model(tmp_path / "lm")
    out = tmp_path / "r.zarr"
    options = {"workers": 1, "analyzers": ["spectrum"]}
    calls: list[int] = []

    def count(done: int, total: int, label: str) -> None:
        if label:
            calls.append(done)

    def run(tokens: list[int]) -> xr.DataTree:
        calls.clear()
        made = analyze_into(
            out, path, "group:Z12", tokens=tokens, progress=count, force=False, **options
        )
        return only(made)

    first = run(TOKENS)
    assert calls == [1]
    again = run(TOKENS)
    assert calls == []
    xr.testing.assert_identical(first.to_dataset(), again.to_dataset())
    with pytest.warns(UserWarning, match="no longer in it: the tokens 71, 5, 93"):
        other = run([TOKENS[5 * at % 12] for at in range(12)])
    assert calls == [1]
    assert float(other["power"].sel(block="k=5").max()) == pytest.approx(1, abs=1e-6)
    assert first.attrs["configuration"] != other.attrs["configuration"]
    with pytest.raises(TaskError, match="no rows for token 400"):  # not: other checkpoints
        run([*TOKENS[:11], 400])
    language_model(tmp_path / "lm", noise=9)  # other rows, the same circle
    run([TOKENS[5 * at % 12] for at in range(12)])
    assert calls == []
    language_model(tmp_path / "lm", turns=2)
    with pytest.warns(UserWarning, match="no longer in it: the tokens"):
        twice = run(TOKENS)
    assert float(twice["power"].sel(block="k=2").max()) == pytest.approx(1, abs=1e-6)
    assert calls == [1]


# --- without tokens: a network that nobody knows ------------------------------------------------


def strange(folder: Path, rows: int = 12, step: int = 1, name: str = "tok.embed.weight") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = np.zeros((rows, WIDTH), np.float32)
    table[:12] = circle()
    state = {name: table, "mystery.core": np.ones((5, 6, 7), np.float32)}
    path = folder / f"step_{step}.safetensors"
    save_file(state, path)
    return path


def test_an_embedding_that_its_name_tells_is_analysed_with_a_notice(tmp_path: Path) -> None:
    node = only(analyze(strange(tmp_path, rows=13), "group:Z12", workers=1, analyzers=DEFAULT))
    assert_is_the_circle(node)
    notices = node.attrs["notices"]
    assert "no known architecture fits: the embedding alone is analysed" in notices
    assert "'tok.embed.weight' (13×24), whose rows are tokens" in notices
    assert "tokens" not in node.attrs
    reasons = json.loads(node.attrs["not_computed"])
    assert set(reasons) == LOGITS
    assert all("no known architecture fits" in reason for reason in reasons.values())


def test_an_embedding_that_a_map_names(tmp_path: Path) -> None:
    path = strange(tmp_path, name="stuff.table")
    with pytest.raises(Exception, match="map embedding=TENSOR") as caught:
        raise RuntimeError(str(only(analyze(path, "group:Z12", workers=1))["error"].values[0]))
    assert "no known architecture" in str(caught.value)
    for mapping in ("embedding=table", {"embedding": "stuff.table"}):
        tree = analyze(path, "group:Z12", mapping=mapping, workers=1, analyzers=DEFAULT)
        assert_is_the_circle(only(tree))


def test_a_vocabulary_of_another_size_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no rows for the 12 tokens.*--tokens which rows"):
        analyze(strange(tmp_path, rows=50), "group:Z12", workers=1)


def test_one_checkpoint_that_lacks_the_tensor_is_a_failed_row(tmp_path: Path) -> None:
    strange(tmp_path, step=1)
    state = load_file(strange(tmp_path, step=2))
    state["tok.embed.weight"][3, 3] = np.nan
    save_file(state, tmp_path / "step_2.safetensors")
    node = only(analyze(tmp_path, "group:Z12", workers=1, analyzers=DEFAULT))
    assert node["status"].values.tolist() == ["ok", "failed"]
    assert "NaN or infinite" in str(node["error"].values[1])


def test_beside_a_known_network_a_map_replaces_its_matrix(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=(80,))
    (path,) = folder.glob("*.safetensors")
    state = load_file(path)
    # a second layer's weights, which are no embedding, show that the map is followed
    name = next(name for name, value in state.items() if value.shape[0] == 7)
    options = {"workers": 1, "analyzers": ["dimension", "fit"]}
    plain = only(analyze(path, "modadd:p=7", **options))
    mapped = only(analyze(path, "modadd:p=7", mapping={"embedding.rows": name}, **options))
    assert json.loads(mapped.attrs["roles"])["embedding"] == name
    np.testing.assert_array_equal(mapped["accuracy"], plain["accuracy"])
    values = mapped["dimension"].sel(matrix="embedding", measure="stable_rank").values
    singular = np.linalg.svd(state[name] - state[name].mean(axis=0), compute_uv=False)
    assert values[0] == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-5)
    assert mapped.attrs["configuration"] != plain.attrs["configuration"]


def test_settings_that_a_network_is_not_run_with_are_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    rng = np.random.default_rng(0)
    shapes = {"embed.weight": (7, 8), "l1.weight": (16, 8), "head.weight": (7, 16)}
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(state, folder / "step_1.safetensors")
    (folder / "config.json").write_text(json.dumps({"embed_scale": 8, "act_fn": "relu"}))
    node = only(analyze(folder, "modadd:p=7", analyzers=["fit", "dimension"], workers=1))
    assert "embed_scale = 8" in json.loads(node.attrs["not_computed"])["fit"]
    assert "dimension" in node


def test_matrices_taken_otherwise_than_before_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ("left", "right")
    save_file(
        {name: rng.standard_normal((12, 12)).astype(np.float32) for name in names},
        folder / "step_1.safetensors",
    )

    def run(mapping: str) -> xr.DataTree:
        into = tmp_path / "out.zarr"
        options = {"workers": 1, "analyzers": ["dimension"]}
        return only(analyze_into(into, folder, "group:Z12", mapping=mapping, **options))

    first = run("embedding.rows=left")
    xr.testing.assert_identical(first.to_dataset(), run("embedding.rows=left").to_dataset())
    lost = "no longer in it: embedding = left along axis 0 of 'run'"
    with pytest.warns(UserWarning, match=lost):
        second = run("embedding.rows=right")
    assert second["dimension"].values.tolist() != first["dimension"].values.tolist()
    with pytest.warns(UserWarning, match="embedding = right along axis 0"):
        run("embedding.columns=right")


def test_a_map_over_the_networks_own_matrix_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=(80,))
    (path,) = folder.glob("*.safetensors")
    name = next(name for name, value in load_file(path).items() if value.shape[0] == 7)
    out, options = tmp_path / "out.zarr", {"workers": 1, "analyzers": ["dimension"]}
    analyze_into(out, path, "modadd:p=7", **options)
    with pytest.warns(UserWarning, match="no longer in it: the network's own embedding of"):
        analyze_into(out, path, "modadd:p=7", mapping={"embedding.rows": name}, **options)
    with pytest.warns(UserWarning, match=f"no longer in it: embedding = {name} along axis 0"):
        analyze_into(out, path, "modadd:p=7", **options)


# --- geomdiag.toml --------------------------------------------------------------------------------


def test_a_file_beside_the_runs_says_all(tmp_path: Path) -> None:
    language_model(tmp_path / "lm/seed=0")
    vocabulary(tmp_path / "lm")
    (tmp_path / "lm/geomdiag.toml").write_text(
        'task = "group:Z12"\ntokens = "months"\ntokenizer = "vocab.json"\nmodel = "os:system"\n'
        '[map]\nembedding = "wte.weight"\n',
        encoding="utf-8",
    )
    tree = analyze(tmp_path / "lm", workers=1, analyzers=DEFAULT)
    node = only(tree)
    assert_is_the_circle(node)
    assert tree.attrs["task"] == "group:Z12"
    notices = node.attrs["notices"]
    assert "lm/geomdiag.toml gives task = group:Z12; tokens = months" in notices
    assert "WARNING: lm/geomdiag.toml names the model os:system, which is not used" in notices
    (found,) = inspect_runs(tmp_path / "lm", measure=False)
    assert found.task == "group:Z12"
    assert found.architecture == "embedding only"


def test_what_the_caller_says_wins_and_is_told(tmp_path: Path) -> None:
    language_model(tmp_path)
    (tmp_path / "geomdiag.toml").write_text('task = "group:Z7"\ntokens = "0:7"\n', encoding="utf-8")
    node = only(analyze(tmp_path, "group:Z12", tokens=TOKENS, workers=1, analyzers=DEFAULT))
    assert_is_the_circle(node)
    assert "says task = group:Z7, which does not count" in node.attrs["notices"]
    assert "says tokens = 0:7, which does not count" in node.attrs["notices"]


def test_without_any_task(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no task was given.*geomdiag\.toml"):
        analyze(language_model(tmp_path), workers=1)


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system counts no reads")
def test_twelve_tokens_of_four_gigabytes_cost_their_rows(tmp_path: Path) -> None:
    def sparse(path: Path, rows: int, width: int, tokens: list[int]) -> Path:
        size = rows * width * 4
        entry = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]}
        header = json.dumps({"model.embed_tokens.weight": entry}).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for token, row in zip(tokens, circle(width=width).astype(np.float32), strict=True):
                file.seek(8 + len(header) + token * width * 4)
                file.write(row.tobytes())
            file.truncate(8 + len(header) + size)
        return path

    def counts() -> tuple[int, int]:
        words = Path("/proc/self/io").read_text(encoding="ascii").split()
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return int(words[words.index("rchar:") + 1]), int(pages[1]) * 4096

    tokens = [20_000 * at + 7 for at in range(12)]
    options = {"tokens": tokens, "workers": 1, "analyzers": ["spectrum", "circle"]}
    small = sparse(tmp_path / "small_step_1.safetensors", 230_000, 8, tokens)
    only(analyze(small, "group:Z12", **options))  # what is imported is read now
    large = sparse(tmp_path / "large_step_1.safetensors", 262_144, 4096, tokens)
    assert large.stat().st_size > 4 << 30
    if large.stat().st_blocks * 512 > 64 << 20:
        pytest.skip("this file system keeps no holes")
    read, held = counts()
    node = only(analyze_into(tmp_path / "r.zarr", large, "group:Z12", **options))
    read_more, held_more = counts()
    power = node["power"].isel(step=0).sel(matrix="embedding", block="k=1")
    assert float(power) == pytest.approx(1, abs=1e-6)
    assert read_more - read < 4 << 20  # twice the rows for number and digest, and the result
    assert held_more - held < 64 << 20
