"""What the documentation says exists: files, headings, commands, options, failure codes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from quiesce.diagnosis.catalogue import catalogue

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packaging/**/*.md"))
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"[a-z][a-z-]*\.[a-z][a-z-]*[a-z]")

_NO_CODES = (".py", ".key", ".sock", ".log", ".lock", "freeze.mounts")
"""Files, and a field of a state file, that look like codes."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(path), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_and_picture_leads_to_something(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        if not goal.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(goal):
            broken.append(f"{target}: no such heading")
    assert not broken


def commands(page: Path) -> Iterator[str]:
    """Every `quiesce …` typed in a console block or written as code in a sentence."""
    text = page.read_text(encoding="utf-8")
    for kind, block in _FENCE.findall(text):
        if kind == "console":
            for line in block.replace("\\\n", " ").splitlines():
                yield from re.findall(r"^[$#] (?:[A-Z_]+=\S+ )*(?:\S*/)?(quiesce .*)$", line)
    # `quiesce v1 …` are labels of the vault's format.
    yield from re.findall(r"`(quiesce (?!v1 )[^`]+)`", prose(page))


@cache
def help_of(words: tuple[str, ...]) -> str | None:
    """What a command says about itself; None when there is no such command."""
    done = subprocess.run(
        [sys.executable, "-m", "quiesce.cli.main", *words, "--help"],
        # Wide enough that no option's name is broken over two lines.
        env={**os.environ, "COLUMNS": "200", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # An unknown command gets the help of what stands before it.
    its_own = re.search(rf"Usage: quiesce {' '.join(words)}\b", done.stdout)
    return done.stdout if done.returncode == 0 and its_own else None


GROUPS = ("vm", "policy", "job", "point", "vault", "extension", "network", "logs")
NESTED = (("vault", "key"),)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_and_option_exists(page: Path) -> None:
    wrong = []
    for line in commands(page):
        said = line.split(" #")[0].replace("\\|", " ").rstrip("&").replace("[", " ")
        words = shlex.split(said.replace("]", " ").replace("…", " ").replace("'", "\\'"))[1:]
        if not words or words[0].startswith("-") or words[0].isupper():
            continue
        command = tuple(words[: 2 if words[0] in GROUPS else 1])
        if command in NESTED:
            command = tuple(words[:3])
        about = help_of(command)
        if about is None:
            wrong.append(f"{line}: no such command")
            continue
        options = (word.partition("=")[0] for word in words if word.startswith("--"))
        wrong += [
            f"{line}: no option {option}"
            for option in options
            if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", about)
            and f"quiesce {' '.join(command)} {option}" != "quiesce explain --reference"
        ]
    assert not wrong


def test_commands_are_found_in_the_pages_at_all() -> None:
    assert len({line for page in PAGES for line in commands(page)}) > 30


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_failure_code_is_in_the_catalogue(page: Path) -> None:
    families = {code.partition(".")[0] for code in catalogue().entries}
    text = page.read_text(encoding="utf-8")
    # As code in a sentence, or in brackets as the command line prints it.
    quoted = re.findall(r"`([^`\s]+)`", prose(page)) + re.findall(r"\[([^\]\s]+)\]", text)
    unknown = {
        word
        for word in quoted
        if _CODE.fullmatch(word)
        and word.partition(".")[0] in families
        and word not in catalogue().entries
    }
    assert not {word for word in unknown if not word.endswith(_NO_CODES)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_speaks_of_one_developers_machine(page: Path) -> None:
    assert not re.findall(r"/(?:work|root/\.|tmp/docs)[\w/.-]*", page.read_text(encoding="utf-8"))
