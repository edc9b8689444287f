"""What a guest says stands in the lines of logs, and never looks like a line of the server's."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from paper_machine import ended

from quiesce.agent.framing import printable
from quiesce.service.logs import configure_logs
from quiesce.service.service import Service

FORGED = printable("first\n2026-11-23T00:00:00Z [info     ] backup of db1 completed\r[quiesce]")


@pytest.fixture
def logs_as_they_were() -> Iterator[None]:
    root, dbos = logging.getLogger(), logging.getLogger("dbos")
    before = root.handlers, root.level, dbos.handlers, dbos.propagate
    yield
    root.handlers, root.level, dbos.handlers, dbos.propagate = before
    structlog.reset_defaults()


@pytest.mark.usefixtures("logs_as_they_were")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_guest_cannot_forge_a_line_of_the_servers_log(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure_logs("info", as_json=as_json)
    structlog.get_logger("x").warning(FORGED, words=FORGED)
    logging.getLogger("y").warning(FORGED)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_guest_cannot_forge_a_line_of_a_jobs_log(service: Service) -> None:
    job = ended(service, service.jobs.start_backup("web"))
    service._book.log(job.id, "warning", FORGED)
    line = service.jobs.get(job.id).log[-1]
    assert "\n" not in line.text
    assert "first\\n2026" in line.text
