"""The doctor with a real guest: well, collected into a bundle, and with its agent stopped."""

from __future__ import annotations

import json

import pytest
from quiesce_server import VM, new_server, wait_for

from quiesce.lab.guest import LabGuest
from quiesce.lab.hand import Hand

pytestmark = pytest.mark.guest
UNIT = "qemu-guest-agent.service"


def test_a_guest_that_is_well_is_not_red_and_a_stopped_agent_is_named_with_its_proof(
    guest: LabGuest,
) -> None:
    hand = Hand(guest)
    with new_server() as server:
        server.add(guest)

        well = server.cli("doctor", VM, "--json")
        found = json.loads(well.stdout)
        assert [check for check in found["checks"] if check["light"] == "red"] == []
        assert found["diagnoses"] == []
        assert well.returncode in (0, 4)
        looked_at = {check["area"] for check in found["checks"] if check["light"] != "unknown"}
        assert {"agent", "mounts", "disks", "space", "load"} <= looked_at

        bundle = server.folder / "logs.tar.gz"
        collected = server.cli("logs", "collect", VM, "--to", str(bundle), "--json")
        assert json.loads(collected.stdout)["files"] > 10, collected.stdout
        again = server.cli("doctor", "--bundle", str(bundle), "--json")
        titles = {check["title"] for check in json.loads(again.stdout)["checks"]}
        assert titles, again.stdout

        hand.run(f"systemctl stop {UNIT}")
        stopped = server.cli("doctor", VM)
        print(stopped.stdout)
        assert stopped.returncode == 3
        assert "[agent.not-running, proven]" in stopped.stdout

        hand.run(f"systemctl start {UNIT}")
        wait_for(
            "a guest that is well again",
            lambda: server.cli("doctor", VM).returncode != 3,
            seconds=60,
            pause=2,
        )
