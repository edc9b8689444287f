"""From what a Windows guest's commands print to the cause that they prove."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from windows_recorded import (
    QGA,
    QGA_PROVIDER,
    QGA_VSS_KEY,
    SQL_ID,
    SYSTEM_ID,
    config,
    key,
    no_service,
    paper,
    query,
    sql_backup,
    writers,
)

from quiesce.diagnosis.engine import diagnose
from quiesce.diagnosis.reading import facts_of
from quiesce.model.diagnosis import Diagnosis, Verdict
from quiesce.model.failure import Evidence, FreezeFailure
from quiesce.model.papers import Paper, Papers

RUNNING, STOPPED = "4  RUNNING", "1  STOPPED"
AUTO, DEMAND, DISABLED = "2   AUTO_START", "3   DEMAND_START", "4   DISABLED"
GOOD_PROVIDER = (query(QGA_PROVIDER, STOPPED), config(QGA_PROVIDER, DEMAND))
SYSTEM = ("System Writer", SYSTEM_ID, 1, "Stable", "No error")
SQL = ("SqlServerWriter", SQL_ID, 1, "Stable", "No error")
FAILED = ("System Writer", SYSTEM_ID, 9, "Failed", "Timed out")


def services(*provider: tuple[str, str, int]) -> Paper:
    return paper("services", query(QGA, RUNNING), config(QGA, AUTO), *provider)


def diagnosis(code: str, *papers: Paper) -> Diagnosis:
    taken = datetime.now(UTC)
    failure = FreezeFailure(
        code,
        "VSS could not freeze the Windows guest.",
        evidence=[
            Evidence("refused", "guest-fsfreeze-freeze", raw="failed to add C:\\: 0x80042306")
        ],
    )
    return diagnose(failure.report(), facts_of(Papers(papers, "qga", taken, taken)))


@pytest.mark.parametrize(
    "provider",
    [(query(QGA_PROVIDER, STOPPED), config(QGA_PROVIDER, DISABLED)), no_service(QGA_PROVIDER)],
    ids=["disabled", "not installed"],
)
def test_a_provider_that_cannot_start_is_the_cause_with_the_line_that_mends_it(
    provider: tuple[tuple[str, str, int], ...],
) -> None:
    found = diagnosis("vss.freeze-failed", services(*provider), writers(SYSTEM))
    assert (found.code, found.verdict) == ("extension.provider-disabled", Verdict.PROVEN)
    assert any("start= demand" in step for step in found.remedy)
    assert any("vss-install" in step for step in found.remedy)


def test_a_failed_writer_is_the_cause_and_the_provider_is_ruled_out_by_its_service() -> None:
    found = diagnosis("vss.freeze-failed", services(*GOOD_PROVIDER), writers(FAILED))
    assert (found.code, found.verdict) == ("vss.writer-failed", Verdict.PROVEN)
    assert any("CryptSvc" in each.fact for each in found.evidence)
    ruled_out = {each.code: each.evidence for each in found.ruled_out}
    assert "is manual" in ruled_out["extension.provider-disabled"].fact


def test_a_full_shadow_copy_beside_sql_servers_own_backups_is_the_cause_of_a_slow_freeze() -> None:
    found = diagnosis(
        "vss.freeze-timeout",
        services(*GOOD_PROVIDER),
        writers(SYSTEM, SQL),
        sql_backup(18265, "DISK"),
        key(QGA_VSS_KEY, ("Start", "REG_DWORD", "0x3"), name="registry-qga-vss"),
    )
    assert (found.code, found.verdict) == ("snapshot.sql-server-full", Verdict.PROVEN)
    assert any("VssOption /t REG_DWORD /d 5" in step for step in found.remedy)


def test_shadow_copies_that_are_copies_are_not_the_cause() -> None:
    found = diagnosis(
        "vss.freeze-timeout",
        services(*GOOD_PROVIDER),
        writers(SYSTEM, SQL),
        sql_backup(18265, "DISK"),
        key(QGA_VSS_KEY, ("VssOption", "REG_DWORD", "0x5"), name="registry-qga-vss"),
    )
    assert found.verdict is Verdict.NOT_PROVEN
    assert "snapshot.sql-server-full" in {each.code for each in found.ruled_out}


def test_a_windows_in_order_proves_nothing_about_a_freeze_that_failed() -> None:
    found = diagnosis("vss.freeze-failed", services(*GOOD_PROVIDER), writers(SYSTEM))
    assert found.code == "vss.freeze-failed"
    assert not {"extension.provider-disabled", "vss.writer-failed"} & {found.code, *found.also}
