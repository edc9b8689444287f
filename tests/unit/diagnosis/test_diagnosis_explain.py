"""What `quiesce explain` answers."""

from __future__ import annotations

import pytest

from quiesce.diagnosis.catalogue import catalogue, parse
from quiesce.diagnosis.explain import Match, explain
from quiesce.model.failure import ExitCode, NotFoundFailure


def test_a_code_is_explained_with_its_cause_and_steps() -> None:
    answer = explain("freeze.timeout")
    assert answer.match is Match.CODE
    [entry] = answer.entries
    assert "longer than the hold allows" in entry.cause
    assert any("quiesce policy update POLICY --hold" in step for step in entry.remedy)


@pytest.mark.parametrize(
    ("alias", "code"),
    [
        ("121", "freeze.failed"),
        ("UserErrorFsFreezeFailed", "freeze.failed"),
        ("usererrorfsfreezefailed", "freeze.failed"),
        ("GuestAgentSnapshotTaskStatusError", "snapshot.status-lost"),
        ("FailedPrepostPreScriptTimeout", "script.timeout"),
    ],
)
def test_other_products_names_and_numbers_lead_to_the_code(alias: str, code: str) -> None:
    answer = explain(alias)
    assert answer.match is Match.ALIAS
    assert [entry.code for entry in answer.entries] == [code]


def test_the_famous_symptom_leads_to_the_causes_behind_it() -> None:
    answer = explain(
        "Could not communicate with the VM agent for snapshot status. "
        "Snapshot VM sub task timed out."
    )
    assert answer.entries[0].code == "snapshot.status-lost"
    families = {entry.family for entry in answer.related}
    assert {"network", "agent", "extension", "freeze"} <= families


def test_a_code_is_found_inside_a_pasted_log_line() -> None:
    answer = explain("ERROR job 17: The agent hangs [agent.hung], see storage.full.")
    assert answer.match is Match.TEXT
    assert [entry.code for entry in answer.entries] == ["agent.hung", "storage.full"]


def test_a_number_in_a_text_counts_only_as_an_error_code() -> None:
    assert explain("snapshot failed with error code 122").entries[0].code == "freeze.timeout"
    with pytest.raises(NotFoundFailure):
        explain("copied 122 files")


def test_a_family_lists_its_codes() -> None:
    answer = explain("freeze")
    assert answer.match is Match.FAMILY
    assert {entry.code for entry in answer.entries} >= {"freeze.failed", "freeze.busy"}


def test_a_misspelt_code_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(NotFoundFailure) as caught:
        explain("freeze.timout")
    assert "freeze.timeout" in caught.value.remedy
    assert caught.value.exit_code is ExitCode.NOT_FOUND


@pytest.mark.parametrize("nonsense", ["", "zzzzzz", "ß" * 400, "🦊"])
def test_nonsense_is_answered_calmly(nonsense: str) -> None:
    with pytest.raises(NotFoundFailure) as caught:
        explain(nonsense)
    assert "quiesce explain" in caught.value.remedy


def test_every_entry_of_the_shipped_catalogue_can_be_explained() -> None:
    for code in catalogue().entries:
        assert explain(code).entries[0].code == code


def test_every_cause_is_one_sentence_and_every_alias_leads_home() -> None:
    for entry in catalogue().entries.values():
        assert entry.cause.endswith("."), entry.code
        assert len(entry.title) <= 70, entry.code
        for alias in entry.aliases:
            assert explain(alias).entries[0].code == entry.code


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('["a.b"]\ntitle="t"\ncause="c."\nremedy=["r"]', "no heading"),
        ('[families]\na="A"\n["a.b"]\ntitle="t"\ncause="c."', "missing fields"),
        ('[families]\na="A"\n["a.b"]\ntitle="t"\ncause="c."\nremedy=["r"]\nx=1', "unknown fields"),
        (
            '[families]\na="A"\n["a.b"]\ntitle="t"\ncause="c."\nremedy=["r"]\nsee_also=["a.c"]',
            "unknown code",
        ),
        (
            '[families]\na="A"\n["a.b"]\ntitle="t"\ncause="c."\nremedy=["r"]\naliases=["1"]\n'
            '["a.c"]\ntitle="t"\ncause="c."\nremedy=["r"]\naliases=["1"]',
            "belongs to",
        ),
    ],
)
def test_a_catalogue_that_breaks_its_rules_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(text)
