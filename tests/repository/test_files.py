"""The repository's own files agree with each other."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(name: str = "constraints.txt") -> dict[str, str]:
    lines = [line for line in read(name).splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9.]+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    return {normal(pin[1]): pin[2] for pin in pins if pin}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def release(version: str) -> tuple[int, ...]:
    """Return a version's numbers without zeros at the end: 2.0 and 2.0.0 are one release."""
    found = numbers(version)
    while found and not found[-1]:
        found = found[:-1]
    return found


def test_every_direct_dependency_is_pinned_within_its_range(project: dict[str, Any]) -> None:
    pins = pinned()
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *(one for extra in extras for one in extra)]
    for requirement in wanted:
        name, bound = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?$", requirement).groups()
        if name == "geomdiag":
            continue
        assert normal(name) in pins, requirement
        if bound:
            assert numbers(pins[normal(name)]) >= numbers(bound), requirement


def test_every_lower_bound_is_a_version_that_is_tried(project: dict[str, Any]) -> None:
    """By `make test-lowest`, or by `make test-formats` within constraints.txt."""
    lowest, newest = pinned("constraints-lowest.txt"), pinned()
    extras = dict(project["project"]["optional-dependencies"])
    for tools in ("dev", "docs", "test-browser"):  # no part of what is installed to use geomdiag
        del extras[tools]
    newer = [*extras.pop("test-formats"), *extras.pop("transformers")]
    for requirement in [
        *newer,
        *project["project"]["dependencies"],
        *(one for extra in extras.values() for one in extra),
    ]:
        name, _, bound = requirement.partition(">=")
        if (name := normal(name.partition("[")[0])) == "geomdiag":
            continue
        assert bound, f"{requirement}: no lower bound"
        tried = [lowest.get(name)] if requirement not in newer else [lowest.get(name), newest[name]]
        assert any(one and release(one) == release(bound) for one in tried), (requirement, tried)


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_constraints_are_sorted_and_name_no_place(name: str) -> None:
    lines = [line for line in read(name).splitlines() if not line.startswith("#")]
    names = [normal(line.partition("==")[0]) for line in lines]
    assert names == sorted(names)
    assert "://" not in read(name)
    assert "+cpu" not in "".join(lines)


def test_the_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert f"## {version}" in read("CHANGELOG.md")
    assert str(yaml.safe_load(read("CITATION.cff"))["version"]) == version


def test_the_licence_is_the_one_that_is_named(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "BSD-3-Clause"
    assert "BSD 3-Clause" in read("LICENSE")
    assert yaml.safe_load(read("CITATION.cff"))["license"] == "BSD-3-Clause"


def test_the_paper_is_cited() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert "2603.01968" in str(citation["references"])


def test_the_ci_script_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_pre_commit_configuration_is_yaml_with_hooks() -> None:
    configuration = yaml.safe_load(read(".pre-commit-config.yaml"))
    names = {hook["id"] for repo in configuration["repos"] for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "mypy", "import-layers"} <= names


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_and_paths_of_a_page_exist(page: str) -> None:
    text = read(page)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:geomdiag|tests|docs|fixtures)/[\w./-]+)`", text):
        if "NAME" not in path and not path.startswith("docs/_build/"):  # `make docs` writes it
            assert (ROOT / path).exists(), path
