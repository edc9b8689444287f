from __future__ import annotations

from quiesce.service.service import Service


def test_a_healthy_vm_is_looked_at_through_every_channel(service: Service) -> None:
    seen = service.looks.facts("web")
    facts = {fact.name: fact.value for fact in seen.facts}
    assert seen.problems == ()
    assert facts["vm.power"] == "running"
    assert facts["qga.answers"] is True
    assert facts["qga.blocked"] == ""
    assert facts["session.left-over"] == 0
