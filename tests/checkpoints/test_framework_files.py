"""Files of Keras, Flax, Orbax, ONNX and MLX, written by them (extra test-formats)."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_types
import numpy as np
import pytest
from checkpoint_makers import STATE, hdf5, nested

from geomdiag.checkpoints import open_runs
from geomdiag.errors import CheckpointError

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder of one network in Keras' three ways, after three updates; and its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", exc_type=ImportError)
        net = keras.Sequential(
            [
                keras.Input((2,), dtype="int32"),
                keras.layers.Embedding(7, 4, name="tokens"),
                keras.layers.Flatten(),
                keras.layers.Dense(7, name="answer"),
            ],
            name="sequential",
        )
        net.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        net.fit(np.zeros((6, 2), int), np.zeros(6, int), batch_size=2, verbose=0)
        folder = tmp_path_factory.mktemp("keras")
        net.save(folder / "net.keras")
        net.save(folder / "net.h5")
        net.save_weights(folder / "net.weights.h5")
    dense, table = net.get_layer("answer"), net.get_layer("tokens")
    held = [dense.kernel, dense.bias, table.embeddings]
    names = ("answer.kernel", "answer.bias", "tokens.embeddings")
    return folder, {
        name: np.asarray(each.value.detach()) for name, each in zip(names, held, strict=True)
    }


NEW = {
    "layers.dense.vars.0": "answer.kernel",
    "layers.dense.vars.1": "answer.bias",
    "layers.embedding.vars.0": "tokens.embeddings",
}
OLD = {
    "answer.sequential.answer.kernel": "answer.kernel",
    "answer.sequential.answer.bias": "answer.bias",
    "tokens.sequential.tokens.embeddings": "tokens.embeddings",
}


@pytest.mark.parametrize(
    ("file", "form", "names"),
    [("net.keras", "keras", NEW), ("net.weights.h5", "hdf5", NEW), ("net.h5", "hdf5", OLD)],
)
def test_keras(keras_files: Any, file: str, form: str, names: dict[str, str]) -> None:
    folder, weights = keras_files
    (series,) = open_runs(folder / file).values()
    assert series.format == form
    assert series.steps.tolist() == [3]  # the optimiser's count
    found = series[0].tensors
    assert set(found) == set(names)
    for name, of in names.items():
        np.testing.assert_array_equal(found[name], weights[of])
        assert found.spec(name).shape == weights[of].shape


def test_a_keras_archive_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "step_1.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(CheckpointError, match=r"has no model\.weights\.h5"):
        open_runs(path)


def test_keras_in_half_precision(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", exc_type=ImportError)
        net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, dtype="bfloat16")])
        net.save_weights(tmp_path / "step_2.weights.h5")
    (series,) = open_runs(tmp_path / "step_2.weights.h5").values()
    found = series[0].tensors
    assert found.spec("layers.dense.vars.0").dtype in ("bfloat16", "float32")
    expected = net.layers[-1].kernel.value.detach().float().numpy()
    np.testing.assert_array_equal(found["layers.dense.vars.0"], expected)


def test_hdf5_attributes_types_and_laziness(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = hdf5(tmp_path / "net.h5", STATE, step=3, val_loss=0.5)
    with h5py.File(path, "a") as file:
        file["note"] = "a text"
        file["big"] = np.zeros((1024, 1024))
        file.create_dataset("packed", data=np.ones((64, 64)), compression="gzip")
        file["backwards"] = np.arange(3, dtype=">i4")
    (series,) = open_runs(path).values()
    checkpoint = series[0]
    assert checkpoint.metadata["note"] == "a text"
    assert checkpoint.tensors["packed"].sum() == 64 * 64
    assert checkpoint.tensors["backwards"].tolist() == [0, 1, 2]
    assert ml_types.bytes_read(lambda: checkpoint.load()["ids"]) < 200_000


def test_hdf5_that_leads_elsewhere(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    other = hdf5(tmp_path / "other.h5", STATE)
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(80))
    for kind in ("virtual", "external"):
        path = tmp_path / f"{kind}_step_1.h5"
        with h5py.File(path, "w") as file:
            if kind == "virtual":
                layout = h5py.VirtualLayout((4,), "i8")
                layout[:] = h5py.VirtualSource(str(other), "ids", (4,))
                file.create_virtual_dataset("ids", layout)
            else:
                file.create_dataset("ids", (10,), "i8", external=[(str(raw), 0, 80)])
        with pytest.raises(CheckpointError, match="in another file"):
            open_runs(path)
    path = tmp_path / "link_step_1.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(3)
        file["outside"] = h5py.ExternalLink(str(other), "/ids")
    (series,) = open_runs(path).values()
    assert set(series[0].tensors) == {"w"}


def test_hdf5_that_unfolds(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "bomb_step_1.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (1 << 20, 1 << 20), "f8", chunks=(64, 64))
    with pytest.raises(CheckpointError, match="would unfold"):
        open_runs(path)


def test_netcdf_results_are_no_checkpoint(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    path = tmp_path / "result_step_1.h5"
    xarray.Dataset({"a": ("x", np.ones(3))}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(CheckpointError, match="netCDF"):
        open_runs(path)


def flax_serialization() -> Any:
    return pytest.importorskip("flax.serialization", exc_type=ImportError)


def test_a_flax_train_state(tmp_path: Path) -> None:
    serialization = flax_serialization()
    import jax.numpy as jnp

    for step in (5, 40):
        state = {
            "step": np.int32(step),
            "params": {
                "params": {
                    "Embed_0": {"embedding": jnp.arange(12.0).reshape(3, 4)},
                    "Dense_0": {"kernel": jnp.full((4, 3), 0.5, jnp.bfloat16)},
                }
            },
            "opt_state": ({"mu": {"Embed_0": {"embedding": jnp.zeros((3, 4))}}},),
        }
        (tmp_path / f"checkpoint_{step}").write_bytes(serialization.to_bytes(state))
    (series,) = open_runs(tmp_path).values()
    assert series.format == "flax"
    assert series.steps.tolist() == [5, 40]
    found = series[0].tensors
    assert set(found) == {"Embed_0.embedding", "Dense_0.kernel"}
    assert found.spec("Dense_0.kernel").dtype == "bfloat16"
    np.testing.assert_array_equal(found["Dense_0.kernel"], np.full((4, 3), 0.5))
    np.testing.assert_array_equal(found["Embed_0.embedding"], np.arange(12.0).reshape(3, 4))


def test_flax_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serialization = flax_serialization()
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    value = np.arange(60.0).reshape(5, 12)
    path = tmp_path / "step_1.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"params": {"w": value}}))
    (series,) = open_runs(path).values()
    np.testing.assert_array_equal(series[0].tensors["w"], value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x82\xa1a\x01\xa1a\x01", "there twice"),
        (b"\x81\xa1a" + b"\x91" * 5000 + b"\x01", "nested too deep"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "truncated"),
        (b"\x81\xa1a\xc9\x00\x00\x00\x14\x01\x93\x91\xcf" + b"\xff" * 8 + b"\xa7float32\xc4\x00",
         "truncated or damaged"),
        (b"\x81\xa1a\xc7\x0c\x01\x93\x91\x01\xa6object\xc4\x00", "has the type 'object'"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff", "a text of"),
    ],
)  # fmt: skip
def test_hostile_msgpack(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "step_1.msgpack"
    path.write_bytes(data + b"\0" * 8)
    with pytest.raises(CheckpointError, match=message):
        open_runs(path)


@pytest.mark.filterwarnings("ignore")
def test_equinox(tmp_path: Path) -> None:
    equinox = pytest.importorskip("equinox", exc_type=ImportError)
    import jax

    half = jax.numpy.full((3, 2), 0.5, jax.numpy.bfloat16)
    for step in (3, 20):
        with (tmp_path / f"step_{step}.eqx").open("wb") as file:
            file.write(b'{"width": 8}\n')
            net = equinox.nn.MLP(2, 3, 8, 1, key=jax.random.PRNGKey(step))
            equinox.tree_serialise_leaves(file, (net, half))
    (series,) = open_runs(tmp_path).values()
    assert series.format == "equinox"
    assert series.steps.tolist() == [3, 20]
    assert series.config["width"] == 8
    leaves = [leaf for leaf in jax.tree_util.tree_leaves((net, half)) if hasattr(leaf, "shape")]
    found = series[1].tensors
    assert list(found) == [f"leaves.{i}" for i in range(len(leaves))]
    for expected, (name, value) in zip(leaves, found.items(), strict=True):
        assert found.spec(name).dtype == str(expected.dtype)
        np.testing.assert_array_equal(value, np.asarray(expected.astype(value.dtype)))
    data = (tmp_path / "step_20.eqx").read_bytes()
    path = tmp_path / "cut.eqx"
    for tenth in range(10):
        path.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(CheckpointError, match=r"cut\.eqx"):
            open_runs(path)


def orbax() -> Any:
    pytest.importorskip("tensorstore", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("orbax.checkpoint", exc_type=ImportError)


def tree(scale: float) -> dict[str, Any]:
    return nested({name: value * scale for name, value in STATE.items() if value.ndim})


@pytest.mark.filterwarnings("ignore")
def test_orbax_steps(tmp_path: Path) -> None:
    ocp = orbax()
    folder = tmp_path / "run"
    with ocp.CheckpointManager(folder) as manager:
        for step in (3, 20):
            manager.save(step, args=ocp.args.StandardSave(tree(step)))
            manager.wait_until_finished()
    (series,) = open_runs(folder).values()
    assert series.format == "orbax"
    assert series.steps.tolist() == [3, 20]
    expected = {name: value * 20 for name, value in STATE.items() if value.ndim}
    assert set(series[1].tensors) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(series[1].tensors[name], value)
    (alone,) = open_runs(folder / "20").values()
    assert alone.steps.tolist() == [20]
    assert alone[0].digest == series[1].digest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ocdbt", [True, False])
def test_orbax_train_state(ocdbt: bool, tmp_path: Path) -> None:
    ocp = orbax()
    state = {"params": tree(1), "step": 7, "opt_state": {"mu": tree(0)}}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as saver:
        saver.save(tmp_path / "state", state)
    (series,) = open_runs(tmp_path / "state").values()
    assert series.steps.tolist() == [7]
    assert set(series[0].tensors) == {name for name, value in STATE.items() if value.ndim}


@pytest.mark.filterwarnings("ignore")
def test_orbax_state_without_a_key_around_it(tmp_path: Path) -> None:
    """One number that is not said about the network is a tensor of it."""
    ocp = orbax()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as saver:
        saver.save(tmp_path / "state", {"w": np.ones((2, 3)), "gain": np.array(2.5), "step": 7})
    (series,) = open_runs(tmp_path / "state").values()
    assert series.steps.tolist() == [7]
    assert {name: value.shape for name, value in series[0].tensors.items()} == {
        "w": (2, 3),
        "gain": (),
    }


@pytest.mark.parametrize("place", ["../w.bin", "/etc/passwd", "missing.bin"])
def test_onnx_values_elsewhere(place: str, tmp_path: Path) -> None:
    package = pytest.importorskip("onnx", exc_type=ImportError)
    tensor = package.TensorProto(
        name="w", dims=[3], data_type=1, data_location=package.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=place)
    graph = package.helper.make_graph([], "g", [], [], [tensor])
    path = tmp_path / "step_1.onnx"
    path.write_bytes(package.helper.make_model(graph, producer_name="test").SerializeToString())
    with pytest.raises(CheckpointError, match=r"plain file name|which is missing"):
        open_runs(path)


def test_mlx(tmp_path: Path) -> None:
    """MLX' two kinds of files are NumPy's and safetensors' own."""
    program = (
        "import sys, mlx.core as mx; w = {'a.weight': mx.arange(6.0).reshape(2, 3)}; "
        "mx.savez(sys.argv[1] + '/step_1.npz', **w); "
        "mx.save_safetensors(sys.argv[1] + '/step_1.safetensors', w)"
    )
    pytest.importorskip("mlx", exc_type=ImportError)
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True)
    if ran.returncode:
        pytest.skip("MLX is installed and does not run here")
    for suffix, form in ((".npz", "numpy"), (".safetensors", "safetensors")):
        (series,) = open_runs(tmp_path / f"step_1{suffix}").values()
        assert series.format == form
        np.testing.assert_array_equal(series[0].tensors["a.weight"], np.arange(6.0).reshape(2, 3))


def test_npz_with_bfloat16(tmp_path: Path) -> None:
    """NumPy stores it as two bytes without a name: said, not passed over in silence."""
    ml_dtypes = pytest.importorskip("ml_dtypes", exc_type=ImportError)
    half = np.ones((2, 3), ml_dtypes.bfloat16)
    np.savez(tmp_path / "step_1.npz", a=np.ones((2, 3)), half=half)
    (series,) = open_runs(tmp_path / "step_1.npz").values()
    assert set(series[0].tensors) == {"a"}
    assert any("'half' is left out" in notice for notice in series.notices)
