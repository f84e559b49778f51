"""Files that run by themselves: the same logits as the network they were exported from."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from geomdiag import tasks
from geomdiag.checkpoints import open_runs
from geomdiag.errors import ArchitectureError, MissingPartError, UnsafeCheckpointError
from geomdiag.models import snapshot

P = 7


class Unknown(torch.nn.Module):
    """A network of no known architecture."""

    def __init__(self, width: int = 2, *, sequence: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sequence = sequence
        self.table = torch.nn.Embedding(P + 1, 5)
        self.mix = torch.nn.Bilinear(5, 5, P)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        vectors = self.table(tokens)
        answer = (
            self.mix(vectors[:, 0], vectors[:, 1]) + vectors.sum((1, 2), keepdim=False)[:, None]
        )
        return torch.stack([answer * 0, answer], 1) if self.sequence else answer


def write(kind: str, net: torch.nn.Module, path: Path, width: int = 2, rows: int = 3) -> Path:
    example = torch.zeros(rows, width, dtype=torch.long)
    free = {"tokens": {0: torch.export.Dim("rows")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.save(torch.jit.trace(net, example), path.with_suffix(".pt"))
            return path.with_suffix(".pt")
        if kind == "torch-export":
            program = torch.export.export(net, (example,), dynamic_shapes=free)
            torch.export.save(program, path.with_suffix(".pt2"))
            return path.with_suffix(".pt2")
        if kind == "torch-export-fixed":
            torch.export.save(torch.export.export(net, (example,)), path.with_suffix(".pt2"))
            return path.with_suffix(".pt2")
        pytest.importorskip("onnxruntime", exc_type=ImportError)
        pytest.importorskip("onnxscript", exc_type=ImportError)
        torch.onnx.export(
            net, (example,), path.with_suffix(".onnx"), dynamic_shapes=free, verbose=False
        )
        return path.with_suffix(".onnx")


KINDS = ["torchscript", "torch-export", "torch-export-fixed", "onnx"]


@pytest.fixture
def task() -> tasks.Task:
    return tasks.task(f"modadd:p={P}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("width", [2, 3])
def test_the_same_logits(
    kind: str, sequence: bool, width: int, task: tasks.Task, tmp_path: Path
) -> None:
    net = Unknown(sequence=sequence).eval()
    path = write(kind, net, tmp_path / "step_9", width)
    (series,) = open_runs(path, allow_pickle=kind != "onnx").values()
    assert series.steps.tolist() == [9]
    shot = snapshot(series[0], task)
    inputs = torch.from_numpy(np.array(task.inputs))
    if width == 3 and shot.notices:  # torch.jit says no width, so the operands come alone
        inputs = torch.nn.functional.pad(inputs, (0, 1), value=P)
    assert (width == 3) == bool(shot.notices) or kind == "torchscript"
    with torch.no_grad():
        expected = net(inputs)
    expected = expected[:, -1] if sequence else expected
    np.testing.assert_allclose(shot.logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(MissingPartError, match="the file's own program"):
        _ = shot.embedding


@pytest.mark.parametrize("kind", ["torchscript", "torch-export"])
def test_programs_that_could_run_code_wait_for_permission(
    kind: str, task: tasks.Task, tmp_path: Path
) -> None:
    path = write(kind, Unknown(), tmp_path / "step_9")
    (series,) = open_runs(path).values()
    assert "table.weight" in series[0].tensors  # the weights can be read
    with pytest.raises(UnsafeCheckpointError, match="allow-pickle"):
        snapshot(series[0], task)


def test_a_known_architecture_is_preferred(task: tasks.Task, tmp_path: Path) -> None:
    """Its embedding and matrices are worth more than a program that shows only answers."""
    from geomdiag.models import recognise

    net = torch.nn.Module()
    net.embed = torch.nn.Embedding(P, 6)
    net.l1, net.l2 = torch.nn.Linear(12, 8), torch.nn.Linear(8, P)
    try:
        recognise({k: _spec(v) for k, v in net.state_dict().items()}, {}, task)
    except ArchitectureError:
        pytest.fail("the network of this test must be one that geomdiag knows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(net), tmp_path / "step_1.pt")
    (series,) = open_runs(tmp_path / "step_1.pt").values()
    assert snapshot(series[0], task).embedding.shape == (P, 6)


def _spec(value: torch.Tensor) -> object:
    from geomdiag.checkpoints import TensorSpec

    return TensorSpec(tuple(value.shape), "float32")


def test_a_program_for_other_inputs(task: tasks.Task, tmp_path: Path) -> None:
    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(5, 4))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.float() @ self.w

    path = write("torch-export", Wide(), tmp_path / "step_1", width=5)
    (series,) = open_runs(path, allow_pickle=True).values()
    with pytest.raises(ArchitectureError, match="takes 5 tokens a row"):
        snapshot(series[0], task)


def test_a_program_with_another_answer(task: tasks.Task, tmp_path: Path) -> None:
    class Narrow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(2, 3))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.float() @ self.w

    path = write("torch-export", Narrow(), tmp_path / "step_1")
    (series,) = open_runs(path, allow_pickle=True).values()
    with pytest.raises(ArchitectureError, match=r"returned shape \(49, 3\)"):
        _ = snapshot(series[0], task).logits


@pytest.mark.parametrize("kind", ["torchscript", "torch-export"])
def test_inspect_and_analyze(kind: str, tmp_path: Path) -> None:
    import geomdiag as gd
    from geomdiag.inspection import inspect_runs

    for step in (1, 20):
        write(kind, Unknown(), tmp_path / f"step_{step}")
    task = f"modadd:p={P}"
    refused = inspect_runs(open_runs(tmp_path), task=task)[0]
    assert "allow-pickle" in refused.problem
    runs = open_runs(tmp_path, allow_pickle=True)
    allowed = inspect_runs(runs, task=task)[0]
    assert not allowed.problem
    assert allowed.architecture == "the file's own program"
    (node,) = gd.analyze(runs, task=task).children.values()
    assert node.ds["step"].values.tolist() == [1, 20]
    assert np.isfinite(node.ds["symmetry_violation"].sel(symmetry="commutativity")).all()


def test_a_map_gives_the_matrices_that_a_program_does_not_show(
    task: tasks.Task, tmp_path: Path
) -> None:
    from geomdiag import analyze

    net = Unknown().eval()
    path = write("torchscript", net, tmp_path / "step_9")
    options = {"analyzers": ["fit", "spectrum", "dimension"], "workers": 1}
    runs = open_runs(path, allow_pickle=True)
    (plain,) = analyze(runs, task, **options).children.values()
    assert "power" not in plain
    assert "--map embedding=TENSOR" in plain.attrs["not_computed"]
    runs = open_runs(path, allow_pickle=True)
    (mapped,) = analyze(runs, task, mapping="embedding=table.weight", **options).children.values()
    assert mapped["loss"].identical(plain["loss"])
    table = net.table.weight[:P].detach().numpy()
    singular = np.linalg.svd(table - table.mean(axis=0), compute_uv=False)
    rank = mapped["dimension"].sel(matrix="embedding", measure="stable_rank")
    assert float(rank[0]) == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-5)
