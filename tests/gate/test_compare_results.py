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


def test_what_only_the_second_has_is_said_and_not_to_be_added_to_a_baseline() -> None:
    second = result(a="modadd:p=7", b="modadd:p=7")
    verdict = compare(result(a="modadd:p=7"), second)
    assert [row.setting for row in verdict.rows] == ["a"]
    assert verdict.notices[0] == (
        "'b' is in the second result alone, so nothing was compared with it."
    )
    assert not any("baseline --update" in notice for notice in verdict.notices)
    apart = compare(result(c="modadd:p=7", d="modadd:p=7"), second)
    assert [row.words for row in apart.rows] == ["the result has no runs of this setting"] * 2
    assert len([notice for notice in apart.notices if "second result alone" in notice]) == 2
