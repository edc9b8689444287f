"""The PowerShell that is sent to Windows guests: read here, since none can be run."""

from __future__ import annotations

import re
from importlib import resources

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from quiesce.agent.inside import ACTIONS_ON_WINDOWS

NAMES = ("collect.ps1", "mend.ps1")
ONLY_READS = re.compile(
    r"sc\.exe (?:query|qc) |reg\.exe query |netsh\.exe winhttp show |wevtutil\.exe qe "
    r"|vssadmin\.exe list |bitsadmin\.exe /util /getieproxy "
    r"|wmic\.exe \w+(?: where \w+=\d)? get [\w,]+ /value <nul \|\| powershell\.exe -NoProfile "
    r"-NonInteractive -Command \"Get-WmiObject "
)


def text(name: str) -> str:
    return (resources.files("quiesce") / "guest" / name).read_text(encoding="ascii")


def rows(name: str, cells: int) -> list[list[str]]:
    return [row.split(" | ", cells - 1) for row in re.findall(r"^[a-z-]+ \| .+$", text(name), re.M)]


def broken(node: Node) -> list[str]:
    here = [f"line {node.start_point.row + 1}"] if node.type == "ERROR" or node.is_missing else []
    return here + [found for child in node.children for found in broken(child)]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_powershell(name: str) -> None:
    parser = Parser(Language(tree_sitter_powershell.language()))
    assert broken(parser.parse(text(name).encode()).root_node) == []


def test_a_mistake_in_powershell_would_be_seen() -> None:
    parser = Parser(Language(tree_sitter_powershell.language()))
    assert broken(parser.parse(b"if ($a -eq 1) { Print 'x'\n").root_node)


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_no_newer_powershell_than_2(name: str) -> None:
    newer = r"\[ordered\]|Get-Cim|\s-(?:not)?in\s|\$PSItem|ConvertTo-Json|\?\?|&&|::new\(|\busing\b"
    assert re.findall(newer, text(name)) == []


def test_every_line_of_the_collector_only_reads() -> None:
    lines = [line for _, line in rows("collect.ps1", 2)]
    assert len(lines) > 20
    assert [line for line in lines if not ONLY_READS.match(line)] == []


def test_the_collector_yields_the_commands_that_are_documented() -> None:
    names = {name for name, _ in rows("collect.ps1", 2)} | {"date"}
    assert names == {
        *("services", "writers", "providers", "registry-bcdragent", "registry-qga-vss"),
        *("winhttp-proxy", "system-proxy", "events", "sql-backups", "antivirus"),
        *("space", "load", "os", "date"),
    }


@pytest.mark.parametrize(("name", "cells"), [("collect.ps1", 2), ("mend.ps1", 3)])
def test_cmd_takes_each_line_as_it_stands(name: str, cells: int) -> None:
    for *_, line in rows(name, cells):
        assert len(line) < 8000, "of 8191 that cmd.exe takes"
        assert "%" not in line, "what cmd.exe would replace"
        assert "^" not in line, "what cmd.exe would drop"
        assert line.count('"') % 2 == 0


def test_the_mender_does_what_the_host_may_ask_for_and_nothing_else() -> None:
    assert {action for action, *_ in rows("mend.ps1", 3)} == set(ACTIONS_ON_WINDOWS)
