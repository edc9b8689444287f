"""The storage endpoint's answers, and the places where the server itself writes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quiesce.lab.faults.fault import Agents, Fault, Scene, fault
from quiesce.lab.faults.network import stand_in
from quiesce.model.snapshot import Consistency

STORAGE = "storage"
MIB = 1 << 20
HOST = {"route": "host"}


def _endpoint_says(name: str, status: int, code: str, expected: str, words: str) -> Fault:
    def injector(scene: Scene) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            keys = Path(folder) / "storage"
            shutil.copytree(scene.server.data / "storage", keys, ignore=_sockets)
            with stand_in(scene, keys, status, code):
                yield

    injector.__doc__ = words
    return fault(name, STORAGE, expected, quick=code == "SnapshotCountExceeded")(injector)


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Of the endpoint's folder only its keys are wanted."""
    return [name for name in names if not name.endswith((".pem", ".key"))]


ENDPOINT_ROWS = tuple(
    _endpoint_says(
        f"endpoint-{status}-{code}".lower(),
        status,
        code,
        expected,
        f"The storage endpoint answers {status} {code}.",
    )
    for status, code, expected in (
        (403, "AuthenticationFailed", "storage.auth-failed"),
        (404, "BlobNotFound", "storage.endpoint-refused"),
        (409, "LeaseAlreadyPresent", "storage.endpoint-refused"),
        (409, "SnapshotCountExceeded", "storage.snapshot-limit"),
        (412, "ConditionNotMet", "storage.endpoint-refused"),
        (429, "TooManyRequests", "storage.rate-limit"),
        (503, "ServerBusy", "storage.endpoint-refused"),
    )
)


def _write(scene: Scene, mib: int, path: str = "/root/fault-data") -> None:
    scene.hand.run(f"dd if=/dev/urandom of={path} bs=1M count={mib} conv=fsync 2>/dev/null")


def _writing_meanwhile(scene: Scene) -> Mapping[str, Any]:
    with scene.server.stuck_in_transfer(scene.guest, scene.vm) as job_id:
        _write(scene, 48)
        _write(scene, 48, "/root/more-fault-data")
    return scene.server.end_of(job_id, seconds=180)


@fault(
    "scratch-full",
    STORAGE,
    "storage.scratch-full",
    backup=_writing_meanwhile,
    policy={"scratch_bytes": 4 * MIB, **HOST},
)
def scratch_full(scene: Scene) -> Iterator[None]:
    """The guest writes more during the transfer than the scratch space may hold."""
    _write(scene, 48)
    yield
    scene.hand.run("rm -f /root/fault-data /root/more-fault-data; sync")


def _vault(scene: Scene) -> Path:
    return Path(scene.server.environment["QUIESCE_VAULT_FOLDER"]).parent


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@fault("vault-full", STORAGE, "storage.full", policy=HOST, first=True, heals=False)
def vault_full(scene: Scene) -> Iterator[None]:
    """The file system of the vault is full."""
    place = _vault(scene)
    _write(scene, 64)
    _remount(place, f"size={shutil.disk_usage(place).used // MIB + 2}m")
    yield
    _remount(place, "size=4g")
    scene.hand.run("rm -f /root/fault-data; sync")


@fault("vault-read-only", STORAGE, "storage.read-only", policy=HOST, heals=False)
def vault_read_only(scene: Scene) -> Iterator[None]:
    """The file system of the vault is mounted read-only, as after an error of its disk."""
    _remount(_vault(scene), "ro")
    yield
    _remount(_vault(scene), "rw")


def _reads_through_nbd(scene: Scene) -> Mapping[str, Any]:
    return scene.server.end_of(scene.server.begin(scene.vm), seconds=180)


@fault(
    "another-product-reads-the-vm",
    STORAGE,
    "hypervisor.nbd-server-busy",
    agents=Agents.QGA,
    backup=_reads_through_nbd,
    least=Consistency.FILE_SYSTEM,
    heals=False,
)
def another_product(scene: Scene) -> Iterator[None]:
    """Another backup product has started QEMU's NBD server for itself."""
    address = {"type": "unix", "data": {"path": str(scene.guest.folder / "other.sock")}}
    scene.guest.qmp("nbd-server-start", {"addr": address})
    yield
    scene.guest.qmp("nbd-server-stop")


def _twice(scene: Scene) -> Mapping[str, Any]:
    first = scene.server.begin(scene.vm)
    refused = scene.server.call("POST", "vms", scene.vm, "backup").json()
    scene.server.end_of(first, seconds=180)
    return {"failure": refused, "refused": True}


@fault(
    "two-jobs-at-once",
    STORAGE,
    "policy.in-progress",
    backup=_twice,
    heals=False,
)
def two_jobs(scene: Scene) -> Iterator[None]:
    """A second backup of the VM is asked for while one runs."""
    yield
