"""Two results side by side: what cannot be compared is said without a word of baselines."""

from __future__ import annotations

import pytest

from geomdiag.errors import GeomdiagError
from geomdiag.gate.measured import Measured
from geomdiag.gate.verdict import compare


def result(**tasks: str) -> list[Measured]:
    return [Measured(name, {"loss[heldout]": (1.0,)}, task) for name, task in tasks.items()]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        # one setting each is one setting, whatever it is called
        (result(a="modadd:p=7"), result(b="group:S3"), r"second of group:S3; numbers"),
        (
            result(a="modadd:p=7", b="modadd:p=7"),
            result(a="modadd:p=7", b="group:S3"),
            r"first result is of the task modadd:p=7, the second of group:S3 \(runs of 'b'\)",
        ),
    ],
)
def test_results_of_two_tasks_are_refused(
    first: list[Measured], second: list[Measured], words: str
) -> None:
    with pytest.raises(GeomdiagError, match=words) as caught:
        compare(first, second)
    assert "baseline" not in str(caught.value)


def test_results_of_one_task_or_of_none_that_is_known_are_compared() -> None:
    for second in (result(b="modadd:p=7"), result(b="")):
        (row,) = compare(result(a="modadd:p=7"), second).rows
        assert row.verdict == "same"
