"""What a verification says of itself: as a job, over the API and without a server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from quiesce.model.damage import DiskHealth, PointHealth
from quiesce.service.verify import damaged, stuck, told
from quiesce.vault.upkeep.verify_report import (
    Finding,
    SampleReport,
    Verdict,
    VerifyMode,
    VerifyReport,
)

MIB = 1024 * 1024
AT = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
BAD_PACK = Finding("vault.corrupt-chunk", "packs/ab/abcd", "its BLAKE3 is not its name")


def report(
    *points: PointHealth,
    findings: tuple[Finding, ...] = (),
    checked: int = 134,
    examined: bool = True,
    stopped_by: str = "",
    mode: VerifyMode = VerifyMode.PACKS,
) -> VerifyReport:
    return VerifyReport(
        mode=mode,
        points=points,
        findings=findings,
        packs=134,
        blobs_opened=0,
        bytes_read=200 * MIB,
        packs_checked=checked,
        round_bytes=200 * MIB,
        total_bytes=1000 * MIB,
        examined=examined,
        stopped_by=stopped_by,
        cursor="packs:packs:ab:2026-03-01T02.30.00.000000" if stopped_by else "",
    )


def point(*disks: DiskHealth) -> PointHealth:
    return PointHealth("p1", "web", AT, disks)


def test_a_whole_round_tells_points_packs_and_bytes_as_people_read_them() -> None:
    assert told(report(point(DiskHealth("vda")))) == [
        "1 point and 134 packs checked, 200.0 MiB read."
    ]


def test_a_limited_check_claims_no_more_than_it_has_looked_at() -> None:
    first, more = told(report(checked=19, examined=False, stopped_by="bytes"))
    assert first == "19 of 134 packs checked, 200.0 MiB read."
    assert "reached at 20.0 % of the stored bytes" in more


def test_a_sample_that_its_limit_ended_is_not_said_to_go_on() -> None:
    drawn = SampleReport(seed=1, wanted=50, restored=10, size_bytes=MIB, failed=())
    ended = replace(report(mode=VerifyMode.SAMPLE, stopped_by="bytes"), sample=drawn, cursor="")
    assert told(ended)[-1] == "The limit of bytes was reached."


def test_chunks_that_a_sample_could_not_restore_are_damage_and_named() -> None:
    why = "point p1, disk vda, its map: no pack holds it"
    drawn = SampleReport(seed=1, wanted=50, restored=49, size_bytes=MIB, failed=(why,))
    found = replace(report(mode=VerifyMode.SAMPLE, examined=False), sample=drawn)
    assert found.verdict is Verdict.DAMAGED
    assert [evidence.fact for evidence in damaged(found).evidence] == [f"not restored: {why}"]
    assert told(found) == ["49 of 50 chunks drawn by chance were restored."]


def test_damage_of_an_earlier_part_is_told_by_the_last() -> None:
    last = replace(report(point(DiskHealth("vda"))), damaged_before=True)
    assert last.verdict is Verdict.DAMAGED
    assert damaged(last).message == (
        "The vault is damaged: 0 points suffer, 1 is whole; an earlier part of this verification "
        "found damage, too, which its report names."
    )


def test_a_check_of_the_structure_reads_no_pack_and_says_so() -> None:
    (line,) = told(report(point(DiskHealth("vda")), checked=0, mode=VerifyMode.STRUCTURE))
    assert (
        line == "1 point checked: whether the packs that it needs are among the 134 that are there."
    )


def test_damage_is_told_with_its_ranges_and_what_the_next_backup_heals() -> None:
    disk = DiskHealth.of("vda", [(0, MIB, False), (4 * MIB, 2 * MIB, True)])
    failure = damaged(report(point(disk), findings=(BAD_PACK,)))
    assert failure.message == "The vault is damaged: 1 point suffers, 0 are whole."
    fact = failure.evidence[0].fact
    assert "disk vda: 3.0 MiB cannot be read, bytes 0–1048576, 4194304–6291456" in fact
    assert "the next backup heals 2.0 MiB of it if the disk still holds it" in fact
    assert "`quiesce vault copy --at COPY --key-file KEY --to VAULT`" in failure.remedy


def test_what_the_next_backups_heal_in_full_needs_no_copy() -> None:
    disk = DiskHealth.of("vda", [(0, MIB, True)])
    failure = damaged(report(point(disk)))
    assert "the next backup heals all of it if the disk still holds it" in failure.evidence[0].fact
    assert "vault copy" not in failure.remedy


def test_many_ranges_are_cut_and_the_cut_is_told() -> None:
    disk = DiskHealth.of("vda", ((at * 2 * MIB, MIB, False) for at in range(20)))
    failure = damaged(report(point(disk)))
    fact = failure.evidence[0].fact
    assert fact.count("–") == 8
    assert "and 12 more ranges of 12.0 MiB" in fact
    assert "no newest point holds it" in fact


def test_many_points_are_cut_and_the_cut_is_told() -> None:
    disk = DiskHealth.of("vda", [(0, MIB, True)])
    failure = damaged(report(*[point(disk)] * 130))
    assert failure.message == "The vault is damaged: 130 points suffer, 0 are whole."
    assert len(failure.evidence) == 101
    assert failure.evidence[-1].fact == "30 more points suffer"


@pytest.mark.parametrize(("packs", "said"), [(1, "1 pack is damaged"), (2, "2 packs are damaged")])
def test_without_the_key_the_points_that_suffer_are_unknown_and_not_none(
    packs: int, said: str
) -> None:
    findings = tuple(Finding("vault.corrupt-chunk", f"packs/ab/{n}", "bad") for n in range(packs))
    failure = damaged(report(findings=findings, examined=False), with_key=False)
    points = "which points need it" if packs == 1 else "which points need them"
    assert failure.message == f"{said}; {points} is known only with the key."
    assert "--key-file KEY" in failure.remedy


def test_a_check_that_came_to_nothing_says_so_and_one_that_is_stuck_fails() -> None:
    none = report(checked=0, examined=False, stopped_by="time")
    assert "No pack, point or chunk was looked at: nothing is known of them." in told(none)
    failure = stuck(replace(none, stuck=True))
    assert failure.code == "input.limit-too-small"
    assert failure.message.startswith("Nothing was checked: ")
    assert "larger limit" in failure.remedy
