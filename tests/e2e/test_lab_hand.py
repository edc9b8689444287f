"""The lab's hand in a guest, and the endpoint that stands in for the real one's place."""

from __future__ import annotations

import pytest

from quiesce.agent.qga import QemuGuestAgent
from quiesce.lab.guest import LabGuest
from quiesce.lab.hand import Hand
from quiesce.model.failure import AgentFailure

pytestmark = pytest.mark.long


def test_the_hand_works_while_the_guests_own_agent_is_stopped_and_starts_it_again(
    guest: LabGuest,
) -> None:
    hand = Hand(guest)
    hand.run("systemctl stop qemu-guest-agent")
    agent = QemuGuestAgent(guest.qga_socket)
    with pytest.raises(AgentFailure):
        agent.sync(seconds=1.0)
    agent.disconnect()
    assert hand.run(["echo", "here I am"]).strip() == "here I am"
    hand.put("/root/deep/in/a/folder", "kept", mode="0640")
    assert hand.run("cat /root/deep/in/a/folder; stat -c %a /root/deep/in/a/folder") == "kept640\n"
    hand.run("systemctl start qemu-guest-agent")
    guest.wait_for_agent(60)


def test_nobody_takes_the_hand_for_the_guests_agent(guest: LabGuest) -> None:
    hand = Hand(guest)
    hand.run("systemctl stop qemu-guest-agent")
    assert hand.run("pgrep -x qemu-ga || echo none").strip() == "none"
