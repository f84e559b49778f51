"""Small checkpoints in every format, for the tests."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

STATE: dict[str, np.ndarray] = {
    "embed.weight": np.arange(60, dtype=np.float32).reshape(12, 5) / 7,
    "block.0.bias": np.linspace(-1, 1, 9),
    "mask": np.tril(np.ones((3, 3), dtype=bool)),
    "ids": np.arange(4, dtype=np.int64),
    "halves": np.array([[0.5, -2.0]], dtype=np.float16),
    "scale": np.array(2.5, dtype=np.float32),
}


def tensors(state: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def pytorch(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    held = tensors(state)
    torch.save({"model": held, **beside} if beside else held, path)
    return path


def legacy(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    held = tensors(state)
    torch.save(
        {"model": held, **beside} if beside else held, path, _use_new_zipfile_serialization=False
    )
    return path


def safetensors(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    save_file(dict(state), path, metadata={key: str(value) for key, value in beside.items()})
    return path


def npz(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    np.savez(path, **state, **beside)
    return path


def module(state: Mapping[str, np.ndarray], **beside: Any) -> torch.nn.Module:
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


def torchscript(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole
        torch.jit.save(torch.jit.script(module(state, **beside)), path)
    return path


def exported(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    program = torch.export.export(module(state), (torch.zeros(2, 3),))
    with path.open("wb") as file:  # torch warns of other suffixes
        torch.export.save(program, file, extra_files={k: str(v) for k, v in beside.items()})
    return path


def hdf5(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in state.items():
            file.create_dataset(name.replace(".", "/"), data=value)
        file.attrs.update(beside)
    return path


def nested(state: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in state.items():
        *path, leaf = name.split(".")
        home = result
        for key in path:
            home = home.setdefault(key, {})
        home[leaf] = value
    return result


def flax(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    serialization = pytest.importorskip("flax.serialization", exc_type=ImportError)
    path.write_bytes(serialization.msgpack_serialize({"params": nested(state), **beside}))
    return path


def onnx(path: Path, state: Mapping[str, np.ndarray], **beside: Any) -> Path:
    package = pytest.importorskip("onnx", exc_type=ImportError)
    graph = package.helper.make_graph(
        [package.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [package.helper.make_tensor_value_info("x", package.TensorProto.INT64, ["n", 2])],
        [package.helper.make_tensor_value_info("y", package.TensorProto.INT64, ["n", 2])],
        [package.numpy_helper.from_array(np.asarray(value), name) for name, value in state.items()],
    )
    model = package.helper.make_model(graph, producer_name="test")
    package.helper.set_model_props(model, {key: str(value) for key, value in beside.items()})
    package.save(model, path)
    return path


#: format name, suffix, writer
WRITERS: dict[str, tuple[str, str, Callable[..., Path]]] = {
    "pytorch": ("pytorch", ".pt", pytorch),
    "pytorch-legacy": ("pytorch", ".pth", legacy),
    "safetensors": ("safetensors", ".safetensors", safetensors),
    "numpy": ("numpy", ".npz", npz),
    "torchscript": ("torchscript", ".pt", torchscript),
    "torch-export": ("torch-export", ".pt2", exported),
    "hdf5": ("hdf5", ".h5", hdf5),
    "onnx": ("onnx", ".onnx", onnx),
    "flax": ("flax", ".msgpack", flax),
}


#: Formats whose files hold names of their writer's own, or that are folders: tested in
#: `test_framework_files.py` and `test_distributed_folders.py`.
ELSEWHERE = {"equinox", "keras", "orbax", "torch-distributed"}


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
