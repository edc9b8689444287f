"""Damage as the portal shows it: a mark on the point, and what of it is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from quiesce.model.damage import REPORT_POINTS, DamageReport, DiskHealth, PointHealth
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.portal.damage_card import damage_html, point_loss
from quiesce.portal.tables import POINT_COLUMNS, point_row

EVIL = "<script>alert(1)</script>'\""
AT = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
KIB = 1024
HEALS = PointHealth("p1", "web", AT, (DiskHealth.of("vda", [(0, 128 * KIB, True)]),))
PARTLY = PointHealth(
    "p2",
    "web",
    AT,
    (
        DiskHealth("vda"),
        DiskHealth.of("vdb", [(0, 128 * KIB, True), (512 * KIB, 64 * KIB, False)]),
    ),
)
LOST = PointHealth("p3", "", None, (), "Its manifest is damaged.")


class Words(HTMLParser):
    def __init__(self, markup: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.said: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def report(*points: PointHealth, unseen: int = 0) -> DamageReport:
    return DamageReport.of(points, AT, unseen=unseen)


def stored(point_id: str) -> RecoveryPoint:
    disk = PointDisk("vda", 1 << 30, "raw", "g", False)
    label = ConsistencyLabel(Consistency.FILE_SYSTEM, "")
    return RecoveryPoint(point_id, "web", "job", AT, AT, Route.HOST, label, None, (disk,))


def test_without_damage_there_is_no_card() -> None:
    assert damage_html(report(PointHealth("p0", "web", AT, (DiskHealth("vda"),)))) == ""


def test_the_card_names_points_disks_and_ranges_and_what_heals() -> None:
    text = Words(damage_html(report(HEALS, PARTLY, LOST))).text
    assert text.startswith("3 recovery points are damaged")
    assert "vdb 192.0 KiB; 128.0 KiB of it heals 0 + 131072 (heals) 524288 + 65536 (lost)" in text
    assert "unknown VM, – p3 all Its manifest is damaged." in text
    assert "the next backup of that VM" in text
    assert "comes back only from a copy of the vault" in text


def test_what_heals_in_full_needs_no_copy() -> None:
    text = Words(damage_html(report(HEALS))).text
    assert text.startswith("1 recovery point is damaged")
    assert "copy of the vault" not in text


def test_what_the_card_leaves_out_is_counted() -> None:
    many = [
        replace(HEALS, point_id=f"{n:04}", taken_at=AT + timedelta(n))
        for n in range(REPORT_POINTS + 3)
    ]
    scattered = DiskHealth.of("vda", ((n * 256 * KIB, 128 * KIB, False) for n in range(90)))
    text = Words(damage_html(report(*many, unseen=2))).text
    assert "3 more points have lost 384.0 KiB; they are not listed." in text
    assert "2 points were not looked at." in text
    text = Words(damage_html(report(replace(HEALS, disks=(scattered,))))).text
    assert text.count("(lost)") == 16
    assert "74 more ranges of 9.2 MiB" in text


def test_names_that_a_vault_brings_are_text() -> None:
    evil = PointHealth(EVIL, EVIL, AT, (DiskHealth.of(EVIL, [(0, 1, False)]),))
    words = Words(damage_html(report(evil, replace(LOST, lost=EVIL))))
    assert "script" not in words.names
    assert words.text.count("alert(1)") == 4


@pytest.mark.parametrize(
    ("point_id", "word", "colour"),
    [("p1", "Damaged, heals", "bad"), ("p2", "Damaged", "bad"), ("p9", "–", "idle")],
)
def test_a_damaged_point_has_a_red_mark(point_id: str, word: str, colour: str) -> None:
    row = point_row(stored(point_id), report(HEALS, PARTLY))
    assert ("damage", "Damage", "chip") in POINT_COLUMNS
    assert (row["damage"], row["tones"]["damage"]) == (word, colour)


def test_a_point_that_nobody_has_looked_at_is_said_to_be_neither_whole_nor_hurt() -> None:
    assert point_row(stored("p9"), report(HEALS, unseen=1))["damage"] == "not known"
    assert point_row(stored("p9"), None)["damage"] == "–"


def test_of_a_look_that_came_to_its_limit_nobody_is_told_that_the_rest_is_lost() -> None:
    found = report(PARTLY)
    lost = "What is lost comes back only from a copy of the vault."
    assert lost in Words(damage_html(found)).text
    limited = Words(damage_html(replace(found, heals_known=False))).text
    assert "What heals was not looked for to the end" in limited
    assert lost not in limited


def test_who_restores_a_damaged_point_is_told_before() -> None:
    assert point_loss(HEALS) == (
        "This point is damaged: 128.0 KiB of disk vda cannot be read. The next backup of the VM "
        "may heal it."
    )
    assert point_loss(PARTLY) == ("This point is damaged: 192.0 KiB of disk vdb cannot be read.")
    assert point_loss(LOST) == "Its manifest is damaged."
