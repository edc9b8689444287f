"""One failure of each family on a real guest, as its owner sees it.

PYTHONPATH=tests/support:tests/e2e:tests/agent python tests/bench/four_families.py PAGE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from diagnosis_site import is_well, new_scene
from quiesce_server import QuiesceServer

from quiesce.lab.faults.fault import Scene
from quiesce.lab.faults.table import TABLE

FAMILIES = (
    ("The guest cannot reach the storage endpoint", "egress-dropped"),
    ("The VM's agent is stopped", "azure-agent-stopped"),
    ("The backup extension cannot run", "extension-code-corrupt"),
    ("The snapshot cannot be taken as it should", "frozen-by-somebody-else"),
)
HEAD = """\
# The four families behind one message

*"Could not communicate with the VM agent for snapshot status. Snapshot VM sub task timed out."* is
what all of these look like elsewhere. Here each was set into a real guest (Debian 12 with the stock
Azure Linux agent and the QEMU guest agent), and this is what Quiesce said. Written by
`make four-families`; nothing is edited.
"""


def transcript(scene: Scene, name: str) -> Iterator[str]:
    row = next(row for row in TABLE if row.name == name)
    server = scene.server
    assert isinstance(server, QuiesceServer)
    if row.first:
        server.end_of(server.begin(scene.vm), seconds=300)
    server.protect(scene.vm, snapshot=dict(row.policy))
    with row.inject(scene):
        waited = server.cli("backup", scene.vm, "--wait", seconds=420)
    job = server.get("jobs")[0]["id"]
    yield f"What was set in: {row.words}\n"
    yield "```console"
    yield f"$ quiesce backup '{scene.vm}' --wait"
    yield from (line.rstrip() for line in (waited.stdout + waited.stderr).splitlines())
    yield f"$ echo $?\n{waited.returncode}"
    yield f"$ quiesce job show {job}"
    yield from (line.rstrip() for line in server.cli("job", "show", job).stdout.splitlines())
    yield "```"


def main() -> None:
    page = [HEAD]
    with new_scene() as scene:
        scene.server.environment["COLUMNS"] = "110"
        scene.server.end_of(scene.server.begin(scene.vm), seconds=300)
        for title, name in FAMILIES:
            page += [f"## {title}\n", *transcript(scene, name), ""]
            print(f"{title}: written", flush=True)
            assert is_well(scene), name
    Path(sys.argv[1]).write_text("\n".join(page))


if __name__ == "__main__":
    main()
