"""A training with a monitor is, bit for bit, the training without one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from small_training import Network, assert_same, fresh, run
from torch import Tensor

from geomdiag.errors import CheckpointError
from geomdiag.live import Monitor
from geomdiag.live.memory import checkpoint_of, runner, untouched


def test_training_is_the_same_with_a_monitor() -> None:
    plain = run(fresh())
    network = fresh()
    # "gradient" differentiates through the copies
    monitor = Monitor(network, "modadd:p=7", every=5, analyzers=["fit", "gradient", "symmetry"])
    watched = run(network, monitor.step)
    assert monitor.cost.measured == 9
    assert_same(plain, watched)


@pytest.mark.parametrize("normed", [False, True])
def test_training_is_the_same_when_the_live_network_is_run(normed: bool) -> None:
    plain = run(fresh(normed=normed))
    network = fresh(normed=normed)
    network.drop.eval()  # a part in another mode than the whole
    reference = fresh(normed=normed)
    reference.drop.eval()
    monitor = Monitor(network, "modadd:p=7", every=5, analyzers=["fit"], forward=forward)
    watched = run(network, monitor.step)
    assert monitor.cost.measured == 9
    assert_same(run(reference), watched)
    assert watched.random != plain.random  # dropout draws: had it been on, all would differ


def forward(network: Network, inputs: Tensor) -> Tensor:
    assert not network.training
    assert not torch.is_grad_enabled()
    random.random()
    torch.rand(3)
    return network(inputs)


def test_whatever_a_forward_function_spoils_is_put_back() -> None:
    network = fresh(normed=True)
    run(network, steps=2)
    network.register_buffer("count", torch.zeros(1))
    network.register_buffer("none", None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norm: Any = network.norm
    held = norm.running_mean

    def spoil(module: Any, inputs: Tensor) -> Tensor:
        module.norm.running_mean += 1
        module.norm.running_var = torch.ones(24)
        module.count = torch.ones(1)
        module.drop.train()
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        raise RuntimeError("no logits")

    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    monitor = Monitor(network, "modadd:p=7", analyzers=["fit"], forward=spoil)
    assert monitor.step(0)
    assert monitor.dataset["status"].item() == "failed"
    assert "no logits" in str(monitor.dataset["error"].item())
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert norm.running_mean is held
    assert network.drop.training
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002


def test_unchanged_buffers_are_not_written_while_gradients_wait() -> None:
    network = fresh(normed=True)
    network.eval()  # the backward pass then needs the running statistics as they were
    loss = network(torch.zeros(4, 2, dtype=torch.int64)).sum()
    factory = runner(network, lambda module, inputs: module(inputs))
    factory({})(torch.zeros(3, 2, dtype=torch.int64))
    loss.backward()  # raises had a buffer been written since
    assert network.embedding.weight.grad is not None


def test_a_network_in_double_precision_is_run_as_it_is() -> None:
    def offset(module: Network, inputs: Tensor) -> Tensor:
        answers = module(inputs)
        return torch.matmul(answers, torch.eye(7))  # fails had its type been float32

    monitor = Monitor(fresh().double(), "modadd:p=7", analyzers=["fit"], forward=offset)
    monitor.step(0)
    assert monitor.dataset["status"].item() == "ok", monitor.dataset["error"].item()
    assert torch.get_default_dtype() == torch.float32


def test_the_network_inside_a_distributed_wrapper_is_run() -> None:
    class DistributedDataParallel(torch.nn.Module):
        """Called like torch's own, whose forward waits for the other processes."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, _: Tensor) -> Tensor:
            raise AssertionError("the wrapper was run")

    wrapped = DistributedDataParallel(fresh())
    monitor = Monitor(wrapped, "modadd:p=7", analyzers=["fit"], forward=forward)
    monitor.step(0)
    assert monitor.dataset["status"].item() == "ok"
    assert wrapped.training


def test_the_users_own_settings_do_not_reach_the_numbers_and_are_kept() -> None:
    def measured() -> Any:
        monitor = Monitor(fresh(), "modadd:p=7", analyzers=["default", "gradient"])
        monitor.step(0)
        return monitor.dataset.drop_attrs(deep=False)

    plain = measured()
    torch.set_default_dtype(torch.float64)
    try:
        network = fresh().float()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), untouched():
            assert torch.get_default_dtype() == torch.float32
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_inference_mode_enabled()
        with torch.no_grad(), torch.device("meta"):
            monitor = Monitor(network, "modadd:p=7", analyzers=["default", "gradient"])
            monitor.step(0)
            assert not torch.is_grad_enabled()
            assert torch.empty(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert plain["status"].item() == "ok"
    assert set(monitor.dataset["status"].values) == {"ok"}
    assert set(monitor.dataset.data_vars) == set(plain.data_vars)
    assert "gradient" not in monitor.dataset.attrs["not_computed"]


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9"
)
@pytest.mark.parametrize("common", [True, False])
def test_switches_of_precision_are_kept_however_they_were_set(common: bool) -> None:
    backends: Any = torch.backends
    owner = backends if common else backends.mkldnn.matmul

    def switches() -> list[str]:
        return [one.fp32_precision for one in (backends, backends.cuda.matmul, mkldnn)]

    mkldnn = backends.mkldnn.matmul
    untold = switches()
    with untouched():
        pass
    assert switches() == untold  # one that follows the common one goes on to do so
    owner.fp32_precision = "tf32"
    try:
        before = switches()
        monitor = Monitor(fresh(), "modadd:p=7", analyzers=["fit"])
        assert monitor.step(0)
        assert switches() == before
        with untouched():
            assert mkldnn.fp32_precision == "ieee"
    finally:
        backends.fp32_precision = "none"
        mkldnn.fp32_precision = backends.cuda.matmul.fp32_precision = "none"
    assert switches() == untold


def test_a_checkpoint_in_memory_stays_as_it_was() -> None:
    network = fresh()
    checkpoint = checkpoint_of(network, 3)
    digest = checkpoint.content_digest()
    with torch.no_grad():
        network.embedding.weight.zero_()
    assert checkpoint.digest == digest
    assert checkpoint.tensors["embedding.weight"].any()
    assert checkpoint_of(network, 3).digest != digest


def test_half_precision_is_read_as_from_a_file(tmp_path: Any) -> None:
    from geomdiag.checkpoints import open_runs

    network = fresh().to(torch.bfloat16)
    torch.save(network.state_dict(), tmp_path / "step_5.pt")
    (stored,) = open_runs(tmp_path).values()
    live = checkpoint_of(network, 5)
    assert live.tensors.specs() == stored[0].tensors.specs()
    assert live.digest == stored[0].content_digest()


def test_tensors_without_values_are_refused() -> None:
    with torch.device("meta"):
        network = Network()
    with pytest.raises(CheckpointError, match="on the device 'meta'"):
        checkpoint_of(network, 0)


def test_a_sharded_network_is_refused() -> None:
    class FullyShardedDataParallel(torch.nn.Module):
        """Called like torch's own, which needs several processes."""

    network = torch.nn.Sequential(FullyShardedDataParallel())
    with pytest.raises(CheckpointError, match="geomdiag watch"):
        checkpoint_of(network, 0)
