"""Damaged checkpoints of every kind give values or a CheckpointError, in bounded time and memory.

A short run of what `fuzz/run.py` does for as long as is wanted, and regressions: what it found.
"""

from __future__ import annotations

import random
from pathlib import Path

import fuzzing
import pytest
from checkpoint_makers import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("ignore")  # the writers' own


@pytest.fixture(scope="module", params=list(KINDS))
def seed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fuzzing.Seed:
    return fuzzing.seed_of(request.param, tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "case"


def test_the_valid_checkpoint_is_read(seed: fuzzing.Seed, case: Path) -> None:
    assert fuzzing.read_all(seed.write(case)) == "read"


@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_damage_is_told_or_harmless(seed: fuzzing.Seed, case: Path, rng: random.Random) -> None:
    with fuzzing.bounded():
        fuzzing.read_all(seed.write(case, rng))


@pytest.mark.slow
@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=500)
def test_much_damage(seed: fuzzing.Seed, case: Path, rng: random.Random) -> None:
    with fuzzing.bounded():
        fuzzing.read_all(seed.write(case, rng))


def test_the_bounds_are_kept() -> None:
    with pytest.raises(AssertionError, match="allowed are"), fuzzing.bounded(memory=1 << 20):
        bytearray(b"\1") * (64 << 20)  # more than the allocator keeps for later
