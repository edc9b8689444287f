from __future__ import annotations

import pickle

from quiesce.model.failure import AgentFailure, Evidence, Failure, SnapshotFailure


def raised() -> Failure:
    try:
        try:
            try:
                raise TimeoutError("timed out")
            except TimeoutError as inner:
                raise AgentFailure("agent.silent", "Nobody answers.") from inner
        except AgentFailure as inner:
            raise SnapshotFailure("snapshot.status-lost", "It is not known.") from inner
    except SnapshotFailure as failure:
        return failure


def test_one_failure_is_one_report_however_often_it_is_asked_for() -> None:
    failure = raised()
    assert failure.report() == failure.report()
    assert len({failure.report(), failure.report()}) == 1


def test_a_report_keeps_every_inner_error_with_its_words() -> None:
    report = raised().report()
    assert report.cause is not None
    assert report.cause.code == "agent.silent"
    (inner,) = report.cause.evidence
    assert (inner.fact, inner.raw) == ("inner error TimeoutError", "timed out")


def test_an_inner_error_whose_words_are_evidence_already_is_not_told_twice() -> None:
    seen = Evidence("no answer", "agent", raw="timed out")
    failure = AgentFailure("agent.silent", "Nobody answers.", evidence=[seen])
    failure.__cause__ = TimeoutError("timed out")
    assert failure.report().evidence == (seen,)


def test_a_failure_reaches_another_process_whole() -> None:
    failure = raised()
    there = pickle.loads(pickle.dumps(failure))
    assert type(there) is SnapshotFailure
    assert there.report() == failure.report()
