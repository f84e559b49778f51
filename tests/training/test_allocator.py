"""Freed memory stays with the process while a training runs, and goes back afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap

import pytest

from geomdiag.training import allocator

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")


def in_a_process(lines: str) -> list[int]:
    """Run lines in a process of its own, as what is set holds for a whole process."""
    start = """
        import resource, torch
        from geomdiag.training.allocator import freed_memory_kept

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(50):
                one, other = torch.zeros(2_000_000), torch.zeros(2_000_000)
                del one, other
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def held():
            fields = open("/proc/self/statm").read().split()
            return int(fields[1]) * resource.getpagesize()
    """
    script = textwrap.dedent(start) + textwrap.dedent(lines)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return [int(word) for word in done.stdout.split()]


@glibc
def test_what_was_freed_is_not_fetched_again() -> None:
    (kept,) = in_a_process(
        """
        with freed_memory_kept():
            faults()
            print(faults())
        """
    )
    pages = 50 * 2 * 8_000_000 // resource.getpagesize()
    assert kept < pages / 100


@glibc
def test_afterwards_memory_goes_back() -> None:
    before, after = in_a_process(
        """
        torch.zeros(1)
        before = held()
        with freed_memory_kept():
            block = torch.zeros(100_000_000)
            del block
            assert held() > before + 300_000_000
        print(before, held())
        """
    )
    assert after < before + 50_000_000


def test_without_glibc_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator._glibc() is None
    with allocator.freed_memory_kept():
        pass


def test_what_an_older_glibc_takes_is_set_where_it_refuses_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 2.35 thresholds above 32 MiB are refused; any other that is set stays as it is."""
    thresholds = {-3: 128 * 1024}

    class Older:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            if parameter == -3 and value > 32 * 2**20:
                return 0
            thresholds[parameter] = value
            return 1

        @staticmethod
        def malloc_trim(_: int) -> int:
            return 1

    monkeypatch.setattr(allocator, "_glibc", Older)
    with allocator.freed_memory_kept():
        assert thresholds[-3] == 32 * 2**20
