"""Older, unzipped ``torch.save`` files: mapped, and the same values as torch's own reader gives."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.formats.inert import read_inert
from geomdiag.checkpoints.formats.legacy import read_mapped
from geomdiag.errors import CheckpointError


def save(path: Path, value: object) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


def test_views_of_one_storage_and_every_stride(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "base": base,
        "transposed": base.t(),
        "window": base[1:3, ::2],
        "repeated": base[:1].expand(3, 6),
        "reversed_bits": torch.tensor([True, False]),
        "half": torch.randn(5).half(),  # at a place that is no multiple of its size
        "double": torch.randn(3, dtype=torch.float64),
        "nothing": torch.empty(0, 3),
        "one": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    path = save(tmp_path / "net_step_3.pth", {"model": state, "epoch": 3})
    mapped, whole = read_mapped(path), torch.load(path, weights_only=True)
    assert mapped["epoch"] == 3
    for name, tensor in whole["model"].items():
        assert torch.equal(mapped["model"][name], tensor), name
        assert mapped["model"][name].stride() == tensor.stride(), name
        assert type(mapped["model"][name]) is type(tensor), name
    # the storage that views share stays one
    (a, b) = (mapped["model"][name].untyped_storage().data_ptr() for name in ("base", "window"))
    assert a == b


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_stays_in_its_file(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(200, 100, bias=False))
    expected = module.state_dict()
    path = save(tmp_path / "net_step_3.pth", module)
    found = read_inert(path, zipped=False).state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
    places = sorted((t.data_ptr(), t.numel() * t.element_size()) for t in found.values())
    for (here, size), (after, _) in pairwise(places):
        assert after == here + size + 8  # as they lie in the file, each after its length
    (series,) = open_runs(path).values()
    np.testing.assert_array_equal(series[0].tensors["1.weight"], expected["1.weight"].numpy())


def test_another_count_before_a_storage_is_no_value(tmp_path: Path) -> None:
    """What does not lie where the pickle says is torch's to refuse, never shifted numbers."""
    path = save(tmp_path / "net_step_3.pth", {"w": torch.arange(6.0)})
    data = bytearray(path.read_bytes())
    at = len(data) - 6 * 4 - 8
    assert int.from_bytes(data[at : at + 8], "little") == 6
    data[at : at + 8] = (5).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="does not lie where it should"):
        read_mapped(path)
    with pytest.raises(CheckpointError):
        open_runs(path)


def test_values_outlive_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "net_step_3.pth", {"w": torch.arange(6.0), "v": torch.ones(2, 2)})
    (series,) = open_runs(path).values()
    values = series[0].tensors["w"]
    save(path, {"w": torch.zeros(6), "v": torch.ones(2, 2)})
    np.testing.assert_array_equal(values, np.arange(6.0))
