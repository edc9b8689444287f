"""A bundle that `quiesce logs collect` made tells the doctor what the guest itself has told."""

from __future__ import annotations

from pathlib import Path

from guest_papers import (
    LOG_OF_GOOD_AGENT,
    NOW,
    PROCESSES,
    UNITS_OF_SUSE,
    command,
    missing,
    paper,
    papers,
)

from quiesce.diagnosis.bundle import read_bundle
from quiesce.diagnosis.reading import facts_of
from quiesce.model.diagnosis import Examination
from quiesce.service.log_bundle import pack

SCRIPTS = "/etc/azure/VMSnapshotScriptPluginConfig.json"
GUEST = papers(
    command("date", f"{int(NOW.timestamp())}\n"),
    command("units", UNITS_OF_SUSE),
    command("processes", PROCESSES.replace("Ssl", "Tsl")),
    command("journal", "journalctl: not found", 127),
    command("extension", "", 1),
    command("quiesce", ""),
    command("space", "F 1024-blocks Used Available Capacity M\n/dev/a 9000 9000 0 100% /\n"),
    paper("/etc/waagent.conf", "Extensions.Enabled=n\nHttpProxy.Host=p\n"),
    paper("/etc/os-release", "ID=sles\n"),
    paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT),
    paper("/proc/self/mountinfo", "40 22 7:0 / /srv rw - ext4 /dev/loop0 rw\n"),
    paper(SCRIPTS, "{}", mode=0o666, owner=0),
    missing("/etc/qemu/qemu-ga.conf"),
)


def test_the_facts_are_the_same_but_for_the_clock(tmp_path: Path) -> None:
    made = pack("web1", GUEST, (), Examination("web1", ()), at=NOW)
    path = tmp_path / made.name
    path.write_bytes(made.content)
    again = read_bundle(path)
    assert again.warnings == ()
    assert again.taken_at == NOW

    def known(of: object) -> dict[str, object]:
        return {fact.name: fact.value for fact in facts_of(of)}  # type: ignore[arg-type]

    there = known(GUEST)
    # Our clock at that moment is not in a bundle.
    assert there.pop("guest.clock-ahead-seconds") == 0.0
    assert len(there) > 15
    assert known(again) == there
