"""Whole modules and objects in torch.save files: read without their classes, never executed."""

from __future__ import annotations

import enum
import functools
import io
import pickle
import sys
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_makers import MakesAFolder

from geomdiag.checkpoints import Series, open_runs
from geomdiag.checkpoints.formats.inert import CalledError, read_inert
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

GONE = "a_package_that_is_gone"
SOURCE = """
import dataclasses, torch

class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(width)
        self.act = torch.nn.functional.gelu
        self.scales = torch.nn.ParameterList([torch.nn.Parameter(torch.full((2,), 3.0))])

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.blocks = torch.nn.ModuleList([Block(4), Block(4)])
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.tril(torch.ones(3, 3, dtype=torch.bool)))
        self.register_buffer("cache", torch.zeros(5), persistent=False)
        self.rough = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.absent = None
        self.register_parameter("nothing", None)
        self.settings = Settings()

@dataclasses.dataclass
class Settings:
    p: int = 7
    lr: float = 0.1
    item: str = "adamw"
    dtype: object = torch.float32

class Options(dict):
    pass

class Words(list):
    pass
"""


@pytest.fixture
def gone() -> Iterator[ModuleType]:
    """A package whose classes can be pickled, and which is not there when they are read."""
    module = ModuleType(GONE)
    sys.modules[GONE] = module
    exec(compile(SOURCE, GONE, "exec"), vars(module))
    yield module
    sys.modules.pop(GONE, None)


def write(path: Path, value: Any, **how: Any) -> Path:
    torch.save(value, path, **how)
    sys.modules.pop(GONE, None)
    return path


def only(path: Path) -> Series:
    (series,) = open_runs(path).values()
    assert GONE not in sys.modules
    return series


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module(gone: ModuleType, zipped: bool, protocol: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = gone.Net()
    expected = net.state_dict()
    path = write(
        tmp_path / "finetuned_step_40.pth",
        net,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    series = only(path)
    assert series.steps.tolist() == [40]
    found = series[0].tensors
    assert list(found) == list(expected)
    assert "blocks.1.scales.0" in found
    assert "cache" not in found
    for name, value in expected.items():
        assert found.spec(name).shape == tuple(value.shape)
        np.testing.assert_array_equal(found[name], value.detach().float().numpy())
    assert found.spec("rough").dtype == "bfloat16"


def test_a_module_among_others(gone: ModuleType, tmp_path: Path) -> None:
    held = {
        "model": gone.Net(),
        "config": gone.Settings(),
        "args": Namespace(wd=1.0, out=PurePosixPath("runs/x"), seeds=[1, 2]),
        "hparams": gone.Options(width=128, words=gone.Words(["a", "b"])),
        "epoch": 12,
        "train_loss": np.float64(0.5),
        "train_losses": [0.75, 0.5],
        "counts": Counter("aab"),
        "more": [defaultdict(list, a=[1]), deque([1], 2), OrderedDict(b=2), torch.Size([2]), {3}],
    }
    series = only(write(tmp_path / "last.pt", held))
    assert series.steps.tolist() == [12]
    assert len(series[0].tensors) == len(gone.Net().state_dict())
    config = {"p": 7, "lr": 0.1, "item": "adamw", "wd": 1.0, "out": "runs/x", "width": 128}
    assert {key: series.config[key] for key in config} == config
    assert series.config["words"] == {"items": ["a", "b"]}
    assert series[0].metadata["train_loss"] == 0.5


def test_lists_of_modules_are_a_series(gone: ModuleType, tmp_path: Path) -> None:
    nets = [gone.Net(), gone.Net()]
    series = only(write(tmp_path / "all.pt", {"state_dicts": nets, "epochs": [0, 30]}))
    assert series.steps.tolist() == [0, 30]
    for checkpoint, net in zip(series, nets, strict=True):
        weight = net.embed.weight.detach().numpy()
        np.testing.assert_array_equal(checkpoint.tensors["embed.weight"], weight)


def test_weights_only_costs_no_reading(gone: ModuleType, tmp_path: Path) -> None:
    """The storages stay in the file: a checkpoint says its shapes before they are read."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    path = write(tmp_path / "step_1.pt", [net][0])
    series = only(path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("step_1/data/0").header_offset
    with path.open("r+b") as file:
        where = file.read().index(net[0].weight.detach().numpy().tobytes(), offset)
        file.seek(where)
        file.write(np.zeros(6, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(series[0].tensors["0.weight"], np.zeros((2, 3)))


def test_an_object_without_a_network(gone: ModuleType, tmp_path: Path) -> None:
    path = write(tmp_path / "args.pt", gone.Settings())
    with pytest.raises(CheckpointError, match="it holds a Settings"):
        open_runs(path)


# --- what is refused ---------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclass
class Raw:
    """Pickles as a call of a global."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (functools.partial(print, "x"), "functools.partial"),
        (Colour.RED, "Colour"),
        (Raw(eval, ("1",)), "eval"),
        (Raw(getattr, ([], "append")), "getattr"),
        (Raw(exec, ("open('proof', 'w')",)), "exec"),
        (Raw(bytearray, (1 << 40,)), "bytearray"),
        (Raw(list, (range(9),)), "range"),
        (Raw(np.fromfile, ("/etc/hostname",)), "fromfile"),
        (Raw(torch.load, ("x",)), "torch.serialization.load"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_calls_are_refused_by_name(value: Any, name: str, zipped: bool, tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    net.extra = value
    path = write(tmp_path / "model.pt", net, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=rf"{name}\)") as caught:
        open_runs(path)
    assert "--allow-pickle" in str(caught.value)


def test_nothing_is_executed(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    net.extra = MakesAFolder(tmp_path / "proof")
    with pytest.raises(UnsafeCheckpointError, match="mkdir"):
        open_runs(write(tmp_path / "model.pt", net))
    assert not (tmp_path / "proof").exists()


def _with_pickle(path: Path, data: bytes) -> Path:
    """Write torch's archive around a pickle of our own."""
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # The state of a function, of a stand-in class, of torch's own objects.
        (b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x03\x00\x00\x00abcK\x01s\x86b.", "__setstate__"),
        (b"cgone\nNet\nN}X\x03\x00\x00\x00abcK\x01s\x86b.", "__setstate__"),
        (b"ctorch\nfloat32\n}X\x03\x00\x00\x00abcK\x01sb.", "__setstate__"),
        (b"\x82\x01.", "copyreg extension"),
        (b"(cgone\nNet\nK\x01o.", "gone.Net"),
        (b"(K\x01igone\nNet\n.", "gone.Net"),
        (b"ccopyreg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.", "_reconstr"),
    ],
)
def test_hostile_pickles(data: bytes, message: str, tmp_path: Path) -> None:
    before = torch._utils._rebuild_tensor_v2.__dict__.copy()
    path = _with_pickle(tmp_path / "model.pt", b"\x80\x02" + data)
    with pytest.raises(CalledError, match=message):  # whether or not torch refuses it before
        read_inert(path, zipped=True)
    with pytest.raises(CheckpointError):
        open_runs(path)
    assert torch._utils._rebuild_tensor_v2.__dict__ == before


def test_modules_that_hold_themselves(gone: ModuleType, tmp_path: Path) -> None:
    net = gone.Net()
    net.blocks._modules["self"] = net
    with pytest.raises(CheckpointError, match="nested more than 100 deep"):
        open_runs(write(tmp_path / "model.pt", net))


def test_a_program_in_disguise_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("torch.jit.load was called")

    monkeypatch.setattr(torch.jit, "load", never)
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with zipfile.ZipFile(path, "a") as archive:  # torch takes this for a TorchScript program
        archive.writestr("model/constants.pkl", pickle.dumps((), 2))
    with pytest.raises(CheckpointError):
        open_runs(path)


def test_a_truncated_module(gone: ModuleType, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(gone.Net(), buffer)
    sys.modules.pop(GONE)
    whole = buffer.getvalue()
    path = tmp_path / "model.pt"
    for tenth in range(1, 10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(CheckpointError):
            open_runs(path)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("key", ["cfg", "config"])
def test_what_a_whole_module_keeps_of_its_settings_is_read(
    gone: ModuleType, key: str, inside: bool, tmp_path: Path
) -> None:
    net = gone.Net()
    setattr(net, key, gone.Settings(p=11, item="relu"))
    value = {"model": net, "config": {"p": 7}} if inside else net
    series = only(write(tmp_path / "step_3.pth", value))
    # what stands beside the module is said later, and of the run
    assert series.config["p"] == (7 if inside else 11)
    assert series.config["item"] == "relu"
    assert not any("left out" in notice for notice in series.notices)


def test_settings_of_a_module_that_cannot_be_settings_are_left_out(
    gone: ModuleType, tmp_path: Path
) -> None:
    net = gone.Net()
    deep: Any = {}
    for _ in range(7):
        deep = {str(key): deep for key in range(40)}
    net.cfg = deep
    series = only(write(tmp_path / "step_3.pth", net))
    assert "cfg" not in series.config
    assert any("'cfg' are left out" in notice for notice in series.notices)
    assert "embed.weight" in series[0].tensors
