"""Diagnoses, mends and examinations as the portal shows them."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from told_diagnoses import PROVEN, SILENT, STOPPED, WHEN

from quiesce.model.diagnosis import (
    Candidate,
    Check,
    Diagnosis,
    Examination,
    Light,
    Mend,
    MendAction,
    MendStatus,
    RuledOut,
    Verdict,
)
from quiesce.model.failure import Evidence, FailureReport
from quiesce.portal.diagnosis_card import diagnosis_html, mends_html
from quiesce.portal.doctor_card import examination_html
from quiesce.portal.words import mending_words

EVIL = "<script>alert(1)</script>'\""
SEEN = Evidence(EVIL, EVIL, WHEN, EVIL)
FAILED = FailureReport(EVIL, EVIL + "!", (SEEN, Evidence("only here", "x", WHEN)))
HOSTILE = Diagnosis(
    symptom=EVIL,
    code=EVIL,
    verdict=Verdict.NOT_PROVEN,
    cause=EVIL,
    evidence=(SEEN,),
    ruled_out=(RuledOut(EVIL, EVIL, SEEN),),
    candidates=(Candidate(EVIL, EVIL, (EVIL,), f"`{EVIL}`"),),
    also=(EVIL,),
    remedy=(f"do `{EVIL}`",),
    aliases=(EVIL,),
)
MENDS = (
    Mend(MendAction.THAW, EVIL, EVIL, MendStatus.DONE, WHEN),
    Mend(MendAction.WAIT, EVIL, EVIL, MendStatus.FAILED, WHEN, FAILED),
    Mend(MendAction.OFFLINE, EVIL, EVIL, MendStatus.PLANNED, WHEN),
)


class Elements(HTMLParser):
    def __init__(self, markup: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"class", "href", "title"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_what_guests_tell_is_text_and_never_markup() -> None:
    examination = Examination(
        EVIL,
        (Check(EVIL, EVIL, Light.RED, EVIL, (SEEN,), (EVIL + "1",), (EVIL,)),),
        diagnoses=(HOSTILE,),
        plan=MENDS,
        channels=(EVIL,),
        problems=(FAILED,),
    )
    for markup in (
        diagnosis_html(HOSTILE, FAILED),
        mends_html(MENDS),
        examination_html(examination),
    ):
        shown = Elements(markup)
        assert shown.open == []
        assert "script" not in shown.names
        assert "<script>alert(1)</script>" in shown.text


def test_a_diagnosis_says_the_cause_first_and_each_fact_once() -> None:
    failure = replace(SILENT, evidence=(STOPPED, *SILENT.evidence))
    text = Elements(diagnosis_html(PROVEN, failure)).text
    order = [PROVEN.cause, "proven", "did not answer", "systemctl start", "Evidence"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert text.count("the service is inactive") == 1
    assert "no answer within 5 s" in text
    assert "GuestAgentSnapshotTaskStatusError" in text
    assert "Trying again does not help" in text


def test_what_is_not_proven_has_candidates_and_the_look_that_would_decide() -> None:
    text = Elements(diagnosis_html(HOSTILE)).text
    assert "not proven" in text
    assert "What would decide" in text
    assert "not seen:" in text


def test_lights_stand_by_area_and_what_a_diagnosis_says_is_not_said_twice() -> None:
    stopped = Check(
        "agent", "service", Light.RED, "inactive", (SEEN,), ("agent.not-running",), ("start it",)
    )
    full = Check("space", "/", Light.AMBER, "little", (), ("guest.disk-low",), ("free some",))
    good = Check("disks", "vda", Light.GREEN, "qcow2", (), (), ("never shown",))
    text = Elements(examination_html(Examination("web", (full, stopped, good), (PROVEN,)))).text
    assert text.index("Agent") < text.index("Disks") < text.index("Space")
    assert "start it" not in text
    assert "free some" in text
    assert "never shown" not in text


def test_a_policys_switches_are_told_in_words() -> None:
    assert mending_words(()) == "all that it can"
    assert mending_words((MendAction.WAIT, MendAction.THAW)) == "not: wait, thaw"
    assert mending_words(tuple(MendAction)) == "nothing"
