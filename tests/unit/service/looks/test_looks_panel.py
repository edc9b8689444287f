"""Looks run side by side, and one that hangs or breaks costs only its own facts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quiesce.model.diagnosis import Fact
from quiesce.model.failure import AgentFailure
from quiesce.model.vm import VmAddress
from quiesce.service.looks import panel
from quiesce.service.looks.panel import Case, Found, Look, Panel

SECONDS = 30.0


def long(_: Found) -> float:
    return SECONDS


def short(_: Found) -> float:
    return 0.3


def case(vm: str = "web") -> Case:
    return Case(VmAddress(vm, Path("/run/qmp")), datetime(2026, 3, 1, tzinfo=UTC))


def fact(name: str, value: str = "1") -> Fact:
    return Fact(name, value, name, "test")


def yields(*facts: Fact) -> Callable[[Case, Found], Found]:
    return lambda _, __: Found(facts)


def names(found: Found) -> list[str]:
    return [each.name for each in found.facts]


def codes(found: Found) -> list[str]:
    return [each.code for each in found.problems]


class Stuck:
    """A look that hangs until it is let go; `begun` counts how often it was begun."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.begun = 0
        self.thread = threading.current_thread()

    def __call__(self, _: Case, __: Found) -> Found:
        self.begun += 1
        self.thread = threading.current_thread()
        self.let_go.wait(SECONDS)
        return Found((fact("stuck"),))


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    look = Stuck()
    yield look
    look.let_go.set()


def test_looks_run_side_by_side() -> None:
    meeting = threading.Barrier(3)

    def meet(_: Case, __: Found) -> Found:
        meeting.wait(SECONDS)
        return Found((fact(threading.current_thread().name),))

    found = Panel().run(case(), [Look(name, meet, long) for name in "abc"])
    assert names(found) == ["look-a", "look-b", "look-c"]


def test_a_look_gets_what_those_before_it_have_found() -> None:
    def count(_: Case, before: Found) -> Found:
        return Found((fact("count", ",".join(names(before))),))

    looks = [
        Look("last", count, long, ("one", "two")),
        Look("one", yields(fact("a")), long),
        Look("two", yields(fact("b")), long),
        Look("three", yields(fact("c")), long),
    ]
    assert Panel().run(case(), looks).value("count") == "a,b"


def test_of_two_facts_with_one_name_the_earlier_look_has_the_say() -> None:
    looks = [
        Look("first", yields(fact("port", "busy")), long, ("second",)),
        Look("second", yields(fact("port", "open"), fact("power")), long),
    ]
    found = Panel().run(case(), looks)
    assert found.value("port") == "busy"
    assert sorted(names(found)) == ["port", "power"]


def test_a_look_that_hangs_is_a_problem_and_the_others_facts_are_kept(stuck: Stuck) -> None:
    looks = [
        Look("stuck", stuck, short),
        Look("good", yields(fact("good")), long),
        Look("later", yields(fact("later")), long, ("stuck", "good")),
    ]
    found = Panel().run(case(), looks)
    assert names(found) == ["good", "later"]
    assert codes(found) == ["server.look-unanswered"]
    assert "stuck" in found.problems[0].message


def test_how_long_a_look_is_waited_for_may_depend_on_what_was_found(stuck: Stuck) -> None:
    def by_system(before: Found) -> float:
        return short(before) if before.value("system") == "quick" else long(before)

    looks = [
        Look("system", yields(fact("system", "quick")), long),
        Look("stuck", stuck, by_system, ("system",)),
    ]
    assert codes(Panel().run(case(), looks)) == ["server.look-unanswered"]


def test_a_look_that_still_hangs_is_not_begun_again_for_that_vm(stuck: Stuck) -> None:
    board, looks = Panel(), [Look("stuck", stuck, short)]
    board.run(case(), looks)
    hung = stuck.thread
    assert codes(board.run(case(), looks)) == ["server.look-unanswered"]
    assert stuck.begun == 1
    board.run(case("other"), looks)
    assert stuck.begun == 2, "another VM has nothing to do with it"

    stuck.let_go.set()
    hung.join(SECONDS)
    assert names(board.run(case(), [Look("stuck", stuck, long)])) == ["stuck"]


def test_threads_of_hanging_looks_do_not_pile_up(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel, "_MOST_HANGING", 2)
    board = Panel()
    for vm in ("a", "b", "c", "d"):
        found = board.run(case(vm), [Look("stuck", stuck, short)])
        assert codes(found) == ["server.look-unanswered"]
    assert stuck.begun == 2


def test_threads_of_looks_do_not_keep_the_server_from_ending(stuck: Stuck) -> None:
    Panel().run(case(), [Look("stuck", stuck, short)])
    assert stuck.thread.daemon


def test_a_failure_of_a_look_is_a_problem_with_its_code() -> None:
    def refuse(_: Case, __: Found) -> Found:
        raise AgentFailure("agent.hung", "It does not answer.")

    found = Panel().run(case(), [Look("bad", refuse, long), Look("good", yields(fact("a")), long)])
    assert (codes(found), names(found)) == (["agent.hung"], ["a"])


def test_a_defect_in_a_look_is_said_to_be_one_and_raises_nothing() -> None:
    def broken(_: Case, __: Found) -> Found:
        raise KeyError("nonsense")

    found = Panel().run(case(), [Look("bad", broken, long), Look("good", yields(fact("a")), long)])
    assert (codes(found), names(found)) == (["internal.defect"], ["a"])
    assert "nonsense" in found.problems[0].evidence[0].raw


def test_a_vm_has_one_set_of_looks_at_a_time_and_two_vms_have_two() -> None:
    inside: list[str] = []
    most: dict[str, int] = {}
    together = threading.Barrier(2)
    lock = threading.Lock()

    def look(asked: Case, _: Found) -> Found:
        with lock:
            inside.append(asked.vm)
            most[asked.vm] = max(most.get(asked.vm, 0), inside.count(asked.vm))
        together.wait(SECONDS)  # the other VM's
        with lock:
            inside.remove(asked.vm)
        return Found()

    board = Panel()
    askers = [
        threading.Thread(target=board.run, args=(case(vm), [Look("look", look, long)]))
        for vm in ("a", "b", "a", "b")
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(SECONDS)
    assert most == {"a": 1, "b": 1}
