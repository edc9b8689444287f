"""A witness in the guest: what it acknowledged before a snapshot must be in the restored disk.

A program in the guest appends records to a file and calls fsync after each; only then does it
say, in memory, how many records are safe. Each record carries the hash of all before it, so that
one value stands for everything up to it. After a restore the same file is read again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from quiesce.lab.guest import LabGuest
from quiesce.model.failure import Evidence, LabFailure

_FOLDER = "/var/lib/ledger"
_ACKNOWLEDGED = "/run/ledger"

_WRITER = f"""
import hashlib, json, os, time
os.makedirs("{_FOLDER}", exist_ok=True)
records = os.open("{_FOLDER}/records", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
chain, count, worst = "", 0, 0.0
while True:
    payload = os.urandom(1024).hex()
    chain = hashlib.sha256((chain + payload).encode()).hexdigest()
    started = time.monotonic()
    os.write(records, (payload + " " + chain + "\\n").encode())
    os.fsync(records)
    worst = max(worst, time.monotonic() - started)
    count += 1
    with open("{_ACKNOWLEDGED}.new", "w") as said:
        json.dump(dict(count=count, chain=chain, worst_write_ms=round(worst * 1000, 1)), said)
    os.rename("{_ACKNOWLEDGED}.new", "{_ACKNOWLEDGED}")
    time.sleep(0.02)
"""

_READER = f"""
import hashlib, json, sys
wanted, chain, whole, found = int(sys.argv[1]), "", 0, ""
for line in open("{_FOLDER}/records", "rb"):
    payload, _, said = line.decode("ascii", "replace").rstrip("\\n").partition(" ")
    chain = hashlib.sha256((chain + payload).encode()).hexdigest()
    if said != chain:
        break
    whole += 1
    if whole == wanted:
        found = chain
print(json.dumps(dict(whole=whole, chain=found)))
"""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the guest has promised to keep. `worst_write_ms` is the longest that one record took
    to be safe since the ledger was started, a freeze included."""

    records: int
    chain: str
    worst_write_ms: float


def start_ledger(guest: LabGuest) -> None:
    """Start the writing program, apart from the agent so that the agent can be harmed alone."""
    _put(guest, "/run/ledger-writer.py", _WRITER)
    guest.run("systemd-run --quiet --unit=ledger python3 /run/ledger-writer.py")
    guest.run(f"until test -s {_ACKNOWLEDGED}; do sleep 0.1; done", seconds=60.0)


def acknowledged(guest: LabGuest) -> Acknowledged:
    """What is safe by now."""
    said = json.loads(guest.run(f"cat {_ACKNOWLEDGED}"))
    return Acknowledged(said["count"], said["chain"], said["worst_write_ms"])


def prove(guest: LabGuest, promised: Acknowledged) -> int:
    """That a guest which runs from restored disks holds every record of `promised`, unaltered.

    Returns how many whole records it holds, which may be more: those that became safe between
    the asking and the snapshot.

    :raise LabFailure: lab.proof-failed
    """
    _put(guest, "/run/ledger-reader.py", _READER)
    held = json.loads(guest.run(f"python3 /run/ledger-reader.py {promised.records}"))
    if held["whole"] < promised.records or held["chain"] != promised.chain:
        raise LabFailure(
            "lab.proof-failed",
            f"The restored disk holds {held['whole']} of {promised.records} acknowledged records.",
            evidence=[
                Evidence(f"acknowledged chain {promised.chain}", "guest before the snapshot"),
                Evidence(f"restored chain {held['chain'] or 'none'}", "guest after the restore"),
            ],
        )
    return int(held["whole"])


def _put(guest: LabGuest, path: str, text: str) -> None:
    guest.run(["/bin/sh", "-c", 'printf %s "$1" > "$0"', path, text])
