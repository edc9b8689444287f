"""Every failure code that the source can raise is in the catalogue."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import quiesce
from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.vocabulary import FACTS

SOURCE = Path(quiesce.__file__).parent
CODE = re.compile(r"^[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*$")


def codes_raised_in(source: str) -> set[str]:
    """Codes given as first argument to something named …Failure (or whatever function takes a
    code first), as `code=…`, and as `"code": …` in a dict, as the guest package writes them."""
    families = set(catalogue().families)
    found: set[str] = set()

    def take(node: ast.expr | None) -> None:
        if isinstance(node, ast.IfExp):
            take(node.body)
            take(node.orelse)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            first = node.args[0] if node.args else None
            is_failure = name.lower().endswith("failure")
            looks_like_a_code = (
                isinstance(first, ast.Constant)
                and isinstance(first.value, str)
                and CODE.match(first.value)
                and first.value.partition(".")[0] in families
                and first.value not in FACTS
                and len(node.args) > 1
            )
            if is_failure or looks_like_a_code:
                take(first)
            for keyword in node.keywords:
                if keyword.arg == "code":
                    take(keyword.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    take(value)
    return {code for code in found if CODE.match(code)}


def test_the_search_finds_every_way_of_writing_a_code() -> None:
    assert codes_raised_in(
        'raise FreezeFailure("freeze.a", "x")\n'
        'raise failure.VmFailure("vm.b" if x else "vm.c", "x")\n'
        'report(code="vault.d")\n'
        'print({"code": "agent.e", "message": "m"})\n'
        'self._fail("restore.f", "message")\n'
        'open("disk.img", "rb")\n'
    ) >= {"freeze.a", "vm.b", "vm.c", "vault.d", "agent.e", "restore.f"}


def test_every_code_raised_in_the_source_is_explained() -> None:
    known = catalogue().entries
    unexplained: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for code in codes_raised_in(path.read_text(encoding="utf-8")):
            if code not in known:
                unexplained.setdefault(code, []).append(str(path.relative_to(SOURCE)))
    assert unexplained == {}
