"""Checkpoints in every format, written by the libraries that the formats belong to.

A writer whose library is missing skips the test that calls it (extra test-formats).
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ml_types
import numpy as np
import pytest
import torch
from torch.distributed import checkpoint as dcp

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

State: TypeAlias = Mapping[str, np.ndarray | torch.Tensor]

STATE: dict[str, np.ndarray] = {
    "embed.weight": np.arange(60, dtype=np.float32).reshape(12, 5) / 7,
    "block.0.bias": np.linspace(-1, 1, 9),
    "mask": np.tril(np.ones((3, 3), dtype=bool)),
    "ids": np.arange(4, dtype=np.int64),
    "halves": np.array([[0.5, -2.0]], dtype=np.float16),
    "scale": np.array(2.5, dtype=np.float32),
}


def tensors(state: State) -> dict[str, torch.Tensor]:
    return {
        name: value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        for name, value in state.items()
    }


def arrays(state: State) -> dict[str, np.ndarray]:
    """Return NumPy arrays, of the types of ml_dtypes where NumPy has none."""
    return {name: ml_types.to_numpy(value) for name, value in state.items()}


def nested(state: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in state.items():
        *path, leaf = name.split(".")
        home = result
        for key in path:
            home = home.setdefault(key, {})
        home[leaf] = value
    return result


@contextmanager
def known_types() -> Iterator[None]:
    """Skip where an early release of a library looks a type up that it does not know."""
    try:
        yield
    except KeyError as error:
        if not isinstance(error.args[0], torch.dtype):
            raise
        pytest.skip(f"this release of the library stores no {error.args[0]}")


def pytorch(path: Path, state: State, **beside: Any) -> Path:
    held = tensors(state)
    torch.save({"model": held, **beside} if beside else held, path)
    return path


def legacy(path: Path, state: State, **beside: Any) -> Path:
    held = tensors(state)
    torch.save(
        {"model": held, **beside} if beside else held, path, _use_new_zipfile_serialization=False
    )
    return path


def _sharded(path: Path, state: State, safe: bool) -> Path:
    hub = pytest.importorskip("huggingface_hub", exc_type=ImportError)
    path.mkdir(parents=True)
    held = {k: v.contiguous().clone() for k, v in tensors(state).items()}  # none shares memory
    largest = max(value.nbytes for value in held.values())
    with known_types():
        hub.save_torch_state_dict(
            held, path, max_shard_size=largest + 1, safe_serialization=safe
        )  # two or more shards
    return path


def pytorch_sharded(path: Path, state: State) -> Path:
    return _sharded(path, state, safe=False)


def safetensors_sharded(path: Path, state: State) -> Path:
    return _sharded(path, state, safe=True)


def safetensors(path: Path, state: State, **beside: Any) -> Path:
    from safetensors.torch import save_file

    metadata = {key: str(value) for key, value in beside.items()}
    held = {k: v.contiguous().clone() for k, v in tensors(state).items()}  # none shares memory
    with known_types():
        save_file(held, path, metadata=metadata)
    return path


def npz(path: Path, state: State, **beside: Any) -> Path:
    np.savez(path, **arrays(state), **beside)
    return path


def module(state: State, **beside: Any) -> torch.nn.Module:
    """Return a module whose state_dict is `state`, and which has `beside` as attributes."""

    class Holder(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * 2

    root = Holder()
    for name, value in tensors(state).items():
        *path, leaf = name.split(".")
        home: torch.nn.Module = root
        for key in path:
            if key not in home._modules:
                home.add_module(key, torch.nn.Module())
            home = home._modules[key]
        home.register_buffer(leaf, value)
    for key, value in beside.items():
        setattr(root, key, value)
    return root


def torchscript(path: Path, state: State, **beside: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole
        torch.jit.save(torch.jit.script(module(state, **beside)), path)
    return path


def exported(path: Path, state: State, **beside: Any) -> Path:
    program = torch.export.export(module(state), (torch.zeros(3, 2, dtype=torch.int64),))
    with known_types(), path.open("wb") as file:  # torch warns of other suffixes
        torch.export.save(program, file, extra_files={k: str(v) for k, v in beside.items()})
    return path


def distributed(path: Path, state: State, **beside: Any) -> Path:
    held = tensors(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": held, **beside}, checkpoint_id=path)
    return path


def hdf5(path: Path, state: State, **beside: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in arrays(state).items():
            file.create_dataset(name.replace(".", "/"), data=value)
        file.attrs.update(beside)
    return path


def hdf5_compressed(path: Path, state: State, **beside: Any) -> Path:
    """Write what newer versions of the library write, in compressed chunks and with a text."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", libver="latest") as file:
        for name, value in arrays(state).items():
            packed = {"chunks": True, "compression": "gzip"} if value.size > 1 else {}
            file.create_dataset(name.replace(".", "/"), data=value, **packed)
        file.attrs.update({"author": "a text of no fixed length", **beside})
    return path


def keras(path: Path, state: State, step: int | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("keras", exc_type=ImportError)

        class Holder(package.layers.Layer):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__(name="holder")
                for name, value in tensors(state).items():
                    weight = self.add_weight(
                        shape=tuple(value.shape),
                        dtype=ml_types.name_of(value),
                        name=name.replace(".", "_"),
                        initializer="zeros",
                        trainable=False,
                        autocast=False,
                    )
                    weight.assign(value)
                self.built = True

            def call(self, inputs: Any) -> Any:
                return inputs

        net = package.Sequential([package.Input((2,)), Holder()])
        if step is not None:
            net.compile("sgd")
            net.optimizer.build([])
            net.optimizer.iterations.assign(step)
        net.save(path)
    return path


def flax(path: Path, state: State, **beside: Any) -> Path:
    serialization = pytest.importorskip("flax.serialization", exc_type=ImportError)
    held = {"params": nested(arrays(state)), **beside}
    path.write_bytes(serialization.msgpack_serialize(held))
    return path


def orbax(
    path: Path, state: State, *, ocdbt: bool = True, zarr3: bool = False, **beside: Any
) -> Path:
    pytest.importorskip("tensorstore", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ocp = pytest.importorskip("orbax.checkpoint", exc_type=ImportError)
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
        with ocp.Checkpointer(handler) as saver:
            saver.save(path.absolute(), {"params": nested(arrays(state)), **beside})
    return path


def orbax_files(path: Path, state: State, **beside: Any) -> Path:
    return orbax(path, state, ocdbt=False, **beside)


def orbax_zarr3(path: Path, state: State, **beside: Any) -> Path:
    return orbax(path, state, zarr3=True, **beside)


def equinox(path: Path, state: State) -> Path:
    package = pytest.importorskip("equinox", exc_type=ImportError)
    with path.open("wb") as file:
        file.write(json.dumps({"width": 8}).encode() + b"\n")
        package.tree_serialise_leaves(file, list(arrays(state).values()))
    return path


def tensorflow(path: Path, state: State, **beside: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("tensorflow", exc_type=ImportError)
    held = {name.replace(".", "/"): value for name, value in arrays(state).items()} | beside
    package.raw_ops.SaveV2(
        prefix=str(path.with_suffix("")),
        tensor_names=list(held),
        shape_and_slices=[""] * len(held),
        tensors=[package.constant(value) for value in held.values()],
    )
    return path


def onnx(path: Path, state: State, *, beside_it: bool = False, **beside: Any) -> Path:
    package = pytest.importorskip("onnx", exc_type=ImportError)
    inputs = package.helper.make_tensor_value_info("x", package.TensorProto.INT64, ["n", 2])
    output = package.helper.make_tensor_value_info("y", package.TensorProto.INT64, ["n", 2])
    held = [package.numpy_helper.from_array(v, name) for name, v in arrays(state).items()]
    node = package.helper.make_node("Identity", ["x"], ["y"])
    graph = package.helper.make_graph([node], "g", [inputs], [output], held)
    model = package.helper.make_model(
        graph,
        producer_name="test",
        ir_version=10,
        opset_imports=[package.helper.make_opsetid("", 17)],
    )
    package.helper.set_model_props(model, {key: str(value) for key, value in beside.items()})
    package.save(
        model,
        path,
        save_as_external_data=beside_it,
        location=f"{path.name}.data",
        size_threshold=0,
    )
    return path


def onnx_external(path: Path, state: State, **beside: Any) -> Path:
    return onnx(path, state, beside_it=True, **beside)


def _as_they_are(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _by_order(prefix: str) -> Callable[[Iterable[str]], dict[str, str]]:
    return lambda names: {name: f"{prefix}.{i}" for i, name in enumerate(names)}


@dataclass(frozen=True)
class Kind:
    """One way in which one format comes.

    Attributes
    ----------
    format : str
        Registry name.
    suffix : str
        Ending of its file; empty for a folder.
    write : callable
        Takes a path, a state and, as keywords, what is stored beside it; returns the path.
    lacks : set of str
        Types that its writer cannot store so that they can be told again.
    stores : set of str
        What may be stored beside: ``"step"``, ``"losses"``.
    empty : bool
        Whether it holds arrays without elements.
    lazy : bool
        Whether one tensor can be read without the others.
    rows : bool
        Whether rows of a tensor can be read without the rest of it.
    data : tuple of str
        Files, as patterns within a folder or beside the file, that hold what is read.
    named : callable
        Names as given to names as read.
    by_content : bool
        Whether the content says what it is, whatever its name.
    """

    format: str
    suffix: str
    write: Callable[..., Path]
    lacks: frozenset[str] = frozenset()
    stores: frozenset[str] = frozenset({"step", "losses"})
    empty: bool = True
    lazy: bool = True
    rows: bool = True
    data: tuple[str, ...] = ()
    named: Callable[[Iterable[str]], dict[str, str]] = _as_they_are
    by_content: bool = True

    def files(self, path: Path) -> list[Path]:
        """Return the files that hold what was written to `path`."""
        if not self.data:
            return [path]
        home = path if path.is_dir() else path.parent
        return sorted(p for each in self.data for p in home.glob(each) if p.is_file())


_WIDE = frozenset({"bfloat16", *ml_types.FLOAT8})
_NONE: frozenset[str] = frozenset()

KINDS: dict[str, Kind] = {
    "pytorch": Kind("pytorch", ".pt", pytorch),
    # torch.load itself fails on these in its older files
    "pytorch-legacy": Kind("pytorch", ".pth", legacy, ml_types.FLOAT8 | ml_types.UNSIGNED),
    "pytorch-sharded": Kind(
        "pytorch", "", pytorch_sharded, _NONE, _NONE, data=("*.json", "*.bin")
    ),
    "safetensors": Kind("safetensors", ".safetensors", safetensors, frozenset({"complex128"})),
    "safetensors-sharded": Kind(
        "safetensors", "", safetensors_sharded, frozenset({"complex128"}), _NONE,
        data=("*.json", "*.safetensors"),
    ),
    "numpy": Kind("numpy", ".npz", npz, _WIDE),
    "torchscript": Kind("torchscript", ".pt", torchscript),
    "torch-export": Kind("torch-export", ".pt2", exported),
    "torch-distributed": Kind(
        "torch-distributed", "", distributed, rows=False, by_content=False,
        data=(".metadata", "*.distcp"),
    ),
    "hdf5": Kind("hdf5", ".h5", hdf5, _WIDE),
    "hdf5-compressed": Kind("hdf5", ".h5", hdf5_compressed, _WIDE),
    # through PyTorch, Keras stores unsigned integers as wider signed ones
    "keras": Kind(
        "keras", ".keras", keras, ml_types.FLOAT8 | ml_types.UNSIGNED | ml_types.COMPLEX,
        frozenset({"step"}), named=_by_order("layers.holder.vars"),
    ),
    "flax": Kind("flax", ".msgpack", flax),
    "orbax": Kind(
        "orbax", "", orbax, empty=False, rows=False, by_content=False,
        data=("_METADATA", "manifest.ocdbt", "d/*", "ocdbt.process_0/**/*"),
    ),
    "orbax-zarr3": Kind(
        "orbax", "", orbax_zarr3, empty=False, rows=False, by_content=False,
        data=("_METADATA", "manifest.ocdbt", "d/*", "ocdbt.process_0/**/*"),
    ),
    "orbax-files": Kind(
        "orbax", "", orbax_files, empty=False, rows=False, by_content=False,
        data=("_METADATA", "params*/*", "params*/.z*"),
    ),
    "equinox": Kind(
        "equinox", ".eqx", equinox, ml_types.FLOAT8, _NONE,
        named=_by_order("leaves"), by_content=False,
    ),
    "tensorflow": Kind(
        "tensorflow", ".index", tensorflow,
        frozenset({"float8_e4m3fnuz", "float8_e5m2fnuz"}), by_content=False,
        data=("*.index", "*.data-*"),
    ),
    "onnx": Kind("onnx", ".onnx", onnx),
    "onnx-external": Kind("onnx", ".onnx", onnx_external, data=("*.onnx", "*.data")),
}  # fmt: skip

#: Kinds that are one file each, whose content says what they are.
ONE_FILE = [
    name for name, kind in KINDS.items() if kind.suffix and kind.by_content and not kind.data
]
#: Of those: format, suffix, writer.
WRITERS = {name: (KINDS[name].format, KINDS[name].suffix, KINDS[name].write) for name in ONE_FILE}


class MakesAFolder:
    """Unpickling this makes a folder: the proof that something was executed."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def malicious(path: Path, target: Path, kind: str) -> Path:
    trap = MakesAFolder(target)
    if kind == "zip":
        torch.save({"model": tensors(STATE), "extra": trap}, path)
    elif kind == "legacy":
        torch.save(
            {"model": tensors(STATE), "extra": trap}, path, _use_new_zipfile_serialization=False
        )
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": trap}))
    else:
        np.savez(path, weight=np.ones(3), extra=np.array([trap], dtype=object))
    return path
