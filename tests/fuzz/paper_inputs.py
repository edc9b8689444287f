"""Inputs of the readers of bundles and papers, for both ways of fuzzing them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import tempfile
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from guest_papers import LOG_OF_GOOD_AGENT, PROCESSES, UNITS_OF_DEBIAN

from quiesce.diagnosis.bundle import read_bundle
from quiesce.diagnosis.conditions import fits
from quiesce.diagnosis.examination import examine
from quiesce.diagnosis.reading import facts_of
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.failure import InputFailure
from quiesce.model.papers import Paper, Papers

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
AZURE = "Microsoft.Azure.RecoveryServices.VMSnapshotLinux"
GUEST = {
    "/var/log/waagent.log": LOG_OF_GOOD_AGENT,
    f"/var/log/azure/{AZURE}/extension.log": (
        f"2024-01-14 22:16:48.7 [{AZURE}-1.0]Failed to FIFREEZE: /data\n"
        f"2024-01-14 22:16:49.7 [{AZURE}-1.0]x StatusCode.FailedRetryableFsFreezeFailed,\n"
    ),
    f"/var/lib/waagent/{AZURE}-1.0.9/status/3.status": (
        '[{"version": "1", "timestampUTC": "2026-11-23T02:00:00Z", "status": {"status": "error",'
        ' "code": 121, "formattedMessage": {"message": "m"}, "substatus": [{"name": "[{\\"status\\"'
        ': {\\"status\\": \\"error\\", \\"code\\": \\"2\\"}}]"}]}}]'
    ),
    "/var/lib/waagent/Quiesce.VmBackup-0.2.0.1/status/3.status": (
        '[{"status": {"status": "error", "substatus": [{"formattedMessage": {"message":'
        ' "{\\"failure\\": {\\"code\\": \\"freeze.busy\\", \\"evidence\\": [{}]}}"}}]}}]'
    ),
    "/etc/waagent.conf": "Extensions.Enabled=y\nHttpProxy.Host=p\nHttpProxy.Port=3128\n",
    "/etc/environment": "NO_PROXY=10.0.0.0/8\n",
    "/etc/qemu/qemu-ga.conf": "[general]\nblock-rpcs=guest-exec\n",
    "/etc/os-release": "ID=debian\n",
    "/etc/resolv.conf": "nameserver 10.0.0.1\n",
    "/etc/azure/VMSnapshotScriptPluginConfig.json": "{}",
    "/proc/self/mountinfo": "40 22 7:0 / /srv\\040x rw - ext4 /dev/loop0 rw,errors=remount-ro\n",
    "/proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 50 kB\n",
    "/proc/pressure/io": "full avg10=1.00 avg60=0.00\n",
    "/var/lib/dhcp/dhclient.leases": "lease {\n  option unknown-245 a8:3f:81:10;\n}\n",
    "/run/quiesce/a/state.json": '{"state": "frozen"}',
    "command:date": "1795400000\n",
    "command:units": UNITS_OF_DEBIAN,
    "command:processes": PROCESSES,
    "command:space": "F 1024-blocks Used Available Capacity M\n/dev/a 900 1 899 1% /\n",
    "command:cpu": "cpu 0 0 0 1 0 0 0 0\ncpu 1 0 0 2 0 0 0 0\n",
    "command:python": "/usr/bin/python3 3.11\n",
    "command:extension": "1 2 /var/lib/waagent/Quiesce.VmBackup-0.2.0.1/freeze.py\n",
    "command:quiesce": "/run/quiesce:\n",
    "command:certificate": "notBefore=Nov 2 02:00:00 2026 GMT\nnotAfter=Nov 22 02:00:00 2028 GMT",
    "command:routes": "default via 10.0.0.1 dev eth0\n",
    "command:addresses": "2: eth0    inet 10.0.0.7/24 brd\n",
    "command:journal": (
        "2026-11-23T02:21:06+0000 w systemd[1]: waagent.service: Scheduled restart job, 1.\n"
    ),
    "command:freezers": "veeam /opt/veeam\n",
    "command:services": "{}",
}
BETWEEN = b"\n====\n"


def papers_from(data: bytes) -> Papers:
    """Papers with the texts that stand in `data`, path and text in turn."""
    parts = data.decode("utf-8", "replace").split(BETWEEN.decode())
    made = tuple(
        Paper(path, text, len(text), NOW - timedelta(seconds=9), 0o600, 0, status=0)
        for path, text in zip(parts[::2], parts[1::2], strict=False)
    )
    return Papers(made, "fuzz", NOW, NOW)


def papers_seeds() -> list[bytes]:
    each = [f"{path}{BETWEEN.decode()}{text}".encode() for path, text in GUEST.items()]
    return [*each, BETWEEN.join(each)]


def look_through(papers: Papers) -> None:
    """Raises when a reader does what it must not."""
    for fact in facts_of(papers):
        assert fits(fact.value, FACTS[fact.name]), fact
        assert fact.observed_at.tzinfo is not None, fact
    examine(papers)


def bundle_seeds() -> list[bytes]:
    tar, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, text in GUEST.items():
            info = tarfile.TarInfo("é/" + path.replace("command:", "commands/").lstrip("/"))
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("etc/x")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive_:
        for path, text in GUEST.items():
            archive_.writestr(path.lstrip("/"), text)
    whole = tar.getvalue()
    small = whole[: 512 * 8]
    return [
        *(whole, small, packed.getvalue(), gzip.compress(small), lzma.compress(small)),
        *(bz2.compress(small), zstandard.compress(small), LOG_OF_GOOD_AGENT.encode()),
        *(LOG_OF_GOOD_AGENT.encode("utf-16"), b"#" + b"a" * 32 + b" command date 0\n1\n"),
    ]


def read_through(data: bytes) -> None:
    """Raises when reading a bundle does what it must not."""
    with tempfile.NamedTemporaryFile(prefix="qfuzz-") as file:
        file.write(data)
        file.flush()
        try:
            papers = read_bundle(Path(file.name))
        except InputFailure as failure:
            if not failure.code.startswith("input.bundle-"):
                raise
            return
    for paper in papers.papers:
        text = paper.text + paper.path.replace("\n", "?") + "".join(papers.warnings)
        assert all(each.isprintable() or each in "\n\t" for each in text), paper
    look_through(papers)
