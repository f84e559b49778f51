"""Fenced blocks of Markdown pages: found, run, and what they show compared with what comes out."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.DOTALL | re.MULTILINE)
_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]\d+)?"
#: First line of a block that cannot run, with the reason, for readers and tests alike.
NOT_RUN = "# not run in the tests: "


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and whether it follows another."""

    page: str
    line: int
    language: str
    text: str
    follows: bool

    @property
    def why_not(self) -> str:
        """Why it is not run, or an empty string."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else ""

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


def fenced(path: Path, root: Path) -> list[Block]:
    """Return the fenced blocks of a page, their indentation taken away."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root).as_posix()
    blocks, end = [], 0
    for found in _FENCE.finditer(text):
        inner = re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE)
        follows = bool(blocks) and not text[end : found.start()].strip()
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(Block(name, line, found[2].strip(), inner, follows))
        end = found.end()
    return blocks


def commands(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that is shown for it."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines()[1 if block.why_not else 0 :]:
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.strip():
            assert found, f"{block.where}: output before the first command ('$ …')"
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def same(shown: str, real: str) -> bool:
    """Return whether a shown word is the real one, but for the last digits of numbers."""
    if re.sub(_NUMBER, "#", shown) != re.sub(_NUMBER, "#", real):
        return False
    pairs = zip(re.findall(_NUMBER, shown), re.findall(_NUMBER, real), strict=True)
    # other processors round float32 differently
    return all(math.isclose(float(a), float(b), rel_tol=0.02, abs_tol=1e-8) for a, b in pairs)


def difference(shown: str, real: str) -> str:
    """Return where shown output departs from the real one; a line ``...`` stands for any lines.

    Spaces do not count, and numbers may differ by 2 %.
    """
    words, at = real.split(), 0
    pieces = [piece.split() for piece in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    for number, piece in enumerate(pieces):
        first, last = number == 0, number == len(pieces) - 1
        places = [at] if first else range(at, len(words) - len(piece) + 1)
        if last and not first and piece:
            places = range(max(at, len(words) - len(piece)), len(words) - len(piece) + 1)
        for place in places:
            there = words[place : place + len(piece)]
            if len(there) == len(piece) and all(map(same, piece, there)):
                at = place + len(piece)
                break
        else:
            return f"shown:\n{' '.join(piece)}\nreal, from there on:\n{' '.join(words[at:])}"
    if pieces[-1] and at != len(words):
        return f"not shown:\n{' '.join(words[at:])}"
    return ""


def shell(command: str, folder: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a console block in a folder; `geomdiag` and `python` are this installation's.

    Parameters
    ----------
    command : str
        For bash.
    folder : Path
        Where to run it.
    programs : Path
        Folder for the two programs, made if it is not there.
    """
    programs.mkdir(exist_ok=True)
    for name, words in (("geomdiag", "-m geomdiag "), ("python", "")):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "96",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
