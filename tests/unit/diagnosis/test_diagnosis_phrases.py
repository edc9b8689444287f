"""Error texts of other programs, as people paste them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quiesce.diagnosis.catalogue import catalogue, parse
from quiesce.diagnosis.explain import explain
from quiesce.diagnosis.phrases import seen_at
from quiesce.model.failure import NotFoundFailure

PASTED = [
    line.split(" | ", 1)
    for line in (Path(__file__).parent / "pasted_texts.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("code", "text"), PASTED)
def test_a_pasted_text_of_another_program_leads_to_the_cause(code: str, text: str) -> None:
    assert explain(text.replace("\\n", "\n")).entries[0].code == code


@pytest.mark.parametrize(
    "text", ["the disk is fine", "copied 122 files in 9 s", "State: [1] Stable", "agent answers"]
)
def test_a_text_that_says_nothing_wrong_leads_nowhere(text: str) -> None:
    with pytest.raises(NotFoundFailure):
        explain(text)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UserErrorGuestAgentStatusUnavailable", "agent.stale"),
        ("ExtensionSnapshotFailedNoSecureNetwork", "network.tls-failed"),
        ("ExtensionFailedTimeoutVMNetworkUnresponsive", "guest.overloaded"),
        ("ExtensionFailedSnapshotLimitReachedError", "storage.snapshot-limit"),
        ("VMAgentStatusCommunicationError", "agent.never-seen"),
        ("VMExtensionProvisioningTimeout", "extension.timeout"),
        ("1011", "extension.timeout"),
        ("UserErrorInstantRpNotFound", "restore.point-not-found"),
    ],
)
def test_azures_names_lead_to_the_code(name: str, code: str) -> None:
    assert explain(name).entries[0].code == code


def test_the_famous_symptom_is_explained_by_four_families_with_how_to_tell_them_apart() -> None:
    [entry] = explain("GuestAgentSnapshotTaskStatusError").entries
    said = " ".join(entry.remedy)
    for family in ("the network?", "the agent?", "the extension?", "the snapshot?"):
        assert f"Is it {family}" in said
    for look in ("quiesce network test VM", "quiesce extension list VM", "quiesce doctor VM"):
        assert look in said


def test_a_symptom_is_related_to_every_code_that_may_explain_it() -> None:
    related = {entry.code for entry in explain("agent.silent").related}
    assert {"agent.not-running", "agent.hung", "network.no-address", "vm.paused"} <= related


@pytest.mark.parametrize("text", ["a" * 200_000, "guest agent " * 20_000, "bitmap '" * 50_000])
def test_a_long_text_is_answered(text: str) -> None:
    with pytest.raises(NotFoundFailure):
        explain(text)


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        ('proof=[["vm.power is asleep"]]', "a.b: .*asleep"),
        ('proof=[["no.such is known"]]', "a.b: .*vocabulary"),
        ("proof=[[]]", "hold always"),
        ("against=[[]]", "hold always"),
        ('against=[["vm.power > 3"]]', "only a number"),
        ('explains=["a.c"]', "unknown code"),
        ('explains=["a.b"]', "explains"),
        ('mend_by=["pray"]', "pray"),
        ('remedy=["{install emacs}"]', "placeholder"),
    ],
)
def test_a_mistake_in_a_rule_is_found_when_the_catalogue_is_read(
    field: str, complaint: str
) -> None:
    remedy = "" if field.startswith("remedy") else 'remedy=["r"]\n'
    with pytest.raises(ValueError, match=complaint):
        parse(f'[families]\na="A"\n["a.b"]\ntitle="t"\ncause="c."\n{remedy}{field}')


def test_causes_that_explain_each_other_are_refused() -> None:
    text = '[families]\na="A"\n'
    for code, other in (("a.b", "a.c"), ("a.c", "a.d"), ("a.d", "a.b")):
        text += f'["{code}"]\ntitle="t"\ncause="c."\nremedy=["r"]\nexplains=["{other}"]\n'
    with pytest.raises(ValueError, match=r"a\.\w explains a\.\w"):
        parse(text)


def test_what_is_said_to_be_mended_belongs_to_a_cause_that_can_be_known() -> None:
    for entry in catalogue().entries.values():
        if entry.explains:
            assert entry.proof, f"{entry.code} explains and can never be proven"


def test_an_instant_of_another_day_has_its_date() -> None:
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    earlier = now - timedelta(days=75)
    assert seen_at(now, now) == f"{now.astimezone():%H:%M:%S}"
    assert seen_at(earlier, now) == f"{earlier.astimezone():%Y-%m-%d %H:%M:%S}"
