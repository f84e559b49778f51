"""Plain pickles: said to be what they are, never executed unasked."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_makers import STATE, MakesAFolder, tensors

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.formats.pickles import globals_of
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


class Runs:
    """Unpickling this runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo executed > proof",))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl"])
def test_a_plain_pickle_of_arrays(
    suffix: str, protocol: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"step_4{suffix}"
    path.write_bytes(pickle.dumps(STATE, protocol=protocol))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsafeCheckpointError, match="a plain pickle, not a torch") as caught:
            open_runs(path)
    text = str(caught.value)
    for remedy in ("torch.save(state_dict, path)", "safetensors", "np.savez", "--allow-pickle"):
        assert remedy in text
    assert "names" not in text
    assert capfd.readouterr().err == ""
    (series,) = open_runs(path, allow_pickle=True).values()
    assert series.steps.tolist() == [4]
    np.testing.assert_array_equal(series[0].tensors["ids"], STATE["ids"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_offending_global_is_named(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({**STATE, "x": Runs()}, protocol=protocol))
    with pytest.raises(UnsafeCheckpointError, match=rf"names {os.system.__module__}\.system\)"):
        open_runs(path)
    assert not (tmp_path / "proof").exists()


def test_memoized_names_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    first, second = MakesAFolder(tmp_path / "a"), MakesAFolder(tmp_path / "b")
    path.write_bytes(pickle.dumps(["mkdir", first, second, np.float64(1)], protocol=4))
    found = globals_of(path, zipped=False)
    assert found is not None
    assert found[0] == f"{os.mkdir.__module__}.mkdir"
    assert any(name.endswith("multiarray.scalar") for name in found)
    path.write_bytes(path.read_bytes()[:20])
    assert globals_of(path, zipped=False) is None


def test_torch_files_of_a_newer_protocol(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step_4.pt"
    torch.save(tensors(STATE), path, pickle_protocol=4)
    (series,) = open_runs(path).values()  # torch's own reader of weights knows protocol 2 only
    assert set(series[0].tensors) == set(STATE)
    assert capfd.readouterr().err == ""


def test_a_damaged_pickle_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(STATE)[:-40])
    for allow in (False, True):
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            open_runs(path, allow_pickle=allow)
