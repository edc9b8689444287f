"""Scenarios with the stock Azure Linux agent: each prints a line of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from agent_site import Site, new_site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.guest)
        item.add_marker(pytest.mark.timeout(900))  # a guest may have to wait for another one


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One VM with the agent of its distribution, for the scenarios of one file, in their order."""
    with new_site() as site:
        yield site


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        sentence = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        mark = {"passed": "✓", "failed": "✗", "skipped": "–"}[report.outcome]
        if report.when != "teardown" or report.outcome != "passed":
            print(f"\n{mark} {sentence} ({report.duration:.0f} s)", end="", flush=True)
