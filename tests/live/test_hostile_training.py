"""Trainings and places that a monitor did not hope for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import ANSWERS, INPUTS, Network, fresh
from torch import Tensor, nn

import geomdiag as gd
from geomdiag.errors import CheckpointError, StoreError
from geomdiag.live import Monitor


def quick(network: nn.Module, **options: Any) -> Monitor:
    return Monitor(network, "modadd:p=7", analyzers=["fit"], every=10, quiet=True, **options)


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


def through(module: Any, inputs: Tensor) -> Tensor:
    answers: Tensor = module(inputs)
    return answers


def moved(network: Network) -> Network:
    """Change a network as an update does."""
    with torch.no_grad():
        network.embedding.weight += 0.01
    return network


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_compiled_is_not_compiled_again(in_place: bool) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    network: Any = fresh()
    network.drop.p = 0.0
    if in_place:
        network.compile(backend="eager")
    else:
        network = torch.compile(network, backend="eager")
    nn.functional.cross_entropy(network(INPUTS[:16]), ANSWERS[:16]).backward()
    before = counters["stats"]["unique_graphs"]
    monitor = quick(network, forward=through)
    monitor.step(0)
    assert monitor.dataset["status"].item() == "ok", monitor.dataset["error"].item()
    assert counters["stats"]["unique_graphs"] == before
    network(INPUTS[:16])
    assert counters["stats"]["unique_graphs"] == before  # and is still used as compiled
    assert all(one.training for one in network.modules())


def test_what_a_network_makes_on_its_way_does_not_stay() -> None:
    class Caching(Network):
        def forward(self, inputs: Tensor) -> Tensor:
            if not hasattr(self, "mask"):
                self.register_buffer("mask", torch.ones(len(inputs), 1))
            return super().forward(inputs) * self.mask

    network = Caching()
    monitor = quick(network, forward=through)
    monitor.step(0)
    assert monitor.dataset["status"].item() == "ok"
    assert "mask" not in network.state_dict()
    network(INPUTS[:5])
    assert network.mask.shape == (5, 1)


def test_parameters_that_are_not_made_yet_are_told() -> None:
    network = nn.Sequential(nn.Embedding(7, 8), nn.Flatten(), nn.LazyLinear(7))
    with pytest.raises(CheckpointError, match=r"'2.weight' has no shape yet.*Run the network once"):
        quick(network, forward=through)


def test_a_first_parameter_of_eight_bits_sets_no_default_type() -> None:
    class Scaled(Network):
        def __init__(self) -> None:
            super().__init__()
            scale = torch.ones(1).to(torch.float8_e4m3fn)
            self._parameters = {
                "scale": nn.Parameter(scale, requires_grad=False),
                **self._parameters,
            }

    monitor = quick(Scaled(), forward=through)
    monitor.step(0)
    assert monitor.dataset["status"].item() == "ok", monitor.dataset["error"].item()


# --- steps ---------------------------------------------------------------------------------------


def test_a_diverged_step_that_comes_twice_drops_nothing(tmp_path: Path) -> None:
    network = fresh()
    monitor = quick(network, out=tmp_path / "run.nc")
    monitor.step(0)
    with torch.no_grad():
        network.output.weight.fill_(torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.step(10)
        monitor.step(20)
        monitor.step(10)
        monitor.close(20)  # as trainers' callbacks do
    assert names(tmp_path) == ["run.nc"]
    expected = ["ok", "failed", "failed"]
    assert gd.load(tmp_path / "run.nc")["run"]["status"].values.tolist() == expected


def test_failed_rows_and_notices_outlive_the_session(tmp_path: Path) -> None:
    network = fresh()
    with quick(network, out=tmp_path / "run.nc") as monitor:
        monitor.step(0)
        moved(network)
        monitor.step(10)
        moved(network)
        with pytest.warns(RuntimeWarning, match="1 steps from 10 to 10 are dropped"):
            monitor.step(10)
        with torch.no_grad():
            network.output.bias[0] = torch.nan
        monitor.step(20)
        with torch.no_grad():
            network.output.bias[0] = 0.0
    old = gd.load(tmp_path / "run.nc")["run"]
    with quick(network, out=tmp_path / "run.nc") as monitor:
        monitor.step(30)
    new = gd.load(tmp_path / "run.nc")["run"]
    assert new["status"].values.tolist() == ["ok", "ok", "failed", "ok"]
    assert new["error"].values[2] == old["error"].values[2]
    assert new.attrs["notices"] == old.attrs["notices"]
    assert new.attrs["not_computed"] == old.attrs["not_computed"]


def test_steps_of_an_epoch_are_told_and_lose_nothing(tmp_path: Path) -> None:
    network = fresh()
    monitor = quick(network, out=tmp_path / "run.nc")
    for step in (0, 10, 20):
        moved(network)
        monitor.step(step)
    moved(network)
    with pytest.raises(StoreError, match=r"steps 0 to 20.*not those of an epoch"):
        monitor.step(0)
    monitor.close()
    assert names(tmp_path) == ["run.nc"]
    assert gd.load(tmp_path / "run.nc")["run"]["step"].values.tolist() == [0, 10, 20]


@pytest.mark.parametrize("step", [3.0, "4", None])
def test_a_step_is_a_whole_number(step: Any) -> None:
    with pytest.raises(TypeError, match="expected a whole number of updates"):
        quick(fresh()).step(step)


def test_a_loss_is_one_number(recwarn: pytest.WarningsRecorder) -> None:
    monitor = quick(fresh())
    monitor.step(0, train_loss=torch.tensor(1.5, requires_grad=True))
    assert monitor.dataset["history"].item() == 1.5
    assert not recwarn.list
    with pytest.raises(ValueError, match=r"train_loss: found tensor\(\[1., 2.\]\)"):
        monitor.step(0, train_loss=torch.tensor([1.0, 2.0]))


def test_torchrun_is_known_before_its_processes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monitor = quick(fresh())
    assert monitor.step(0)  # a variable of that name alone means nothing
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert not quick(fresh()).step(0)
    monkeypatch.setenv("RANK", "0")
    assert quick(fresh()).step(0)


# --- places --------------------------------------------------------------------------------------


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a few bytes."""
    resource = pytest.importorskip("resource", reason="the system sets no limits to files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_a_full_disk_ends_nothing_and_loses_nothing(name: str, tmp_path: Path) -> None:
    network = fresh()
    monitor = quick(network, out=tmp_path / name)
    monitor.step(0)
    with full_disk():
        moved(network)
        with pytest.warns(RuntimeWarning, match=r"step 10 is not safe yet.*Free some space"):
            assert monitor.step(10)
        with pytest.raises(StoreError, match="Free some space"):
            monitor.close()
    assert gd.load(tmp_path / name)["run"]["step"].values.tolist() == [0]
    monitor.close()  # once there is room again
    assert gd.load(tmp_path / name)["run"]["step"].values.tolist() == [0, 10]
    assert names(tmp_path) == [name]
