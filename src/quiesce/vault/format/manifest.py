"""Manifests: the sealed object that makes a recovery point exist.

`points/<point id>`, kind "manifest", bound to its point id; JSON:
    version 1 · vm · job_id · taken_at · committed_at (ISO 8601, UTC) · route
    consistency {level, reason} · freeze null | {held, hold_seconds, mounts […]}
    disks [{name, size_bytes, format, generation, incremental, full_read_reason, read_bytes,
            stored_bytes, chunk_bytes, nodes [hex]}]       nodes: see diskmap
Point id: the first 16 hex digits of BLAKE3(key=names key, "point" ‖ 0x00 ‖ job id), so that a job
that runs again finds the point it has committed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any

from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import (
    Consistency,
    ConsistencyLabel,
    FreezeReport,
    MountFreeze,
    Route,
)
from quiesce.vault.format.diskmap import ID_BYTES, node_count
from quiesce.vault.format.keys import VaultKeys, derive
from quiesce.vault.format.sealed import SealError, seal, unseal
from quiesce.vault.format.times import read_time

KIND = "manifest"
POINT_ID_DIGITS = 16
_CHUNK_LIMIT = 1024 * 1024
_DISK_LIMIT = 1 << 60


class ManifestError(ValueError):
    """The stored bytes are no manifest of this point; says what is wrong."""


class NewerManifestError(ManifestError):
    """Written by a newer version of the format."""


@dataclass(frozen=True, slots=True)
class DiskMapRef:
    """One disk's map, by the ids of its nodes; all of it hangs from these."""

    name: str
    size_bytes: int
    chunk_bytes: int
    nodes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    point: RecoveryPoint
    maps: tuple[DiskMapRef, ...]


def point_id_of(keys: VaultKeys, job_id: str) -> str:
    return derive(keys.names, "point", job_id.encode()).hex()[:POINT_ID_DIGITS]


def point_key(point_id: str) -> str:
    return f"points/{point_id}"


def write_manifest(keys: VaultKeys, manifest: Manifest) -> bytes:
    point = manifest.point
    raw: dict[str, Any] = {
        "version": 1,
        "vm": point.vm,
        "job_id": point.job_id,
        "taken_at": point.taken_at.astimezone(UTC).isoformat(),
        "committed_at": point.committed_at.astimezone(UTC).isoformat(),
        "route": str(point.route),
        "consistency": asdict(point.consistency),
        "freeze": None if point.freeze is None else asdict(point.freeze),
        "disks": [
            asdict(disk)
            | {"chunk_bytes": part.chunk_bytes, "nodes": [node.hex() for node in part.nodes]}
            for disk, part in zip(point.disks, manifest.maps, strict=True)
        ],
    }
    return seal(keys, KIND, point.id, json.dumps(raw, sort_keys=True).encode())


def read_manifest(keys: VaultKeys, point_id: str, stored: bytes) -> Manifest:
    """:raise SealError, ManifestError: what is wrong"""
    plain = unseal(keys, KIND, point_id, stored)
    try:
        raw = json.loads(plain)
        if raw["version"] != 1:
            raise NewerManifestError(f"written as version {raw['version']!r}")
        return _parse(point_id, raw)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as inner:
        raise ManifestError(f"not a manifest: {inner!r}") from inner
    except ValueError as inner:
        if isinstance(inner, (ManifestError, SealError)):
            raise
        raise ManifestError(f"not a manifest: {inner}") from inner


def _parse(point_id: str, raw: dict[str, Any]) -> Manifest:
    disks = []
    maps = []
    for row in raw["disks"]:
        size, chunk = int(row["size_bytes"]), int(row["chunk_bytes"])
        nodes = tuple(bytes.fromhex(node) for node in row["nodes"])
        if not 0 <= size <= _DISK_LIMIT or not 512 <= chunk <= _CHUNK_LIMIT:
            raise ManifestError("a disk's figures are out of range")
        if len(nodes) != node_count(size, chunk) or any(len(n) != ID_BYTES for n in nodes):
            raise ManifestError("a disk's map does not fit its size")
        disk = PointDisk(
            name=_text(row["name"]),
            size_bytes=size,
            format=_text(row["format"]),
            generation=_text(row["generation"]),
            incremental=bool(row["incremental"]),
            full_read_reason=_text(row["full_read_reason"]),
            read_bytes=int(row["read_bytes"]),
            stored_bytes=int(row["stored_bytes"]),
        )
        disks.append(disk)
        maps.append(DiskMapRef(disk.name, size, chunk, nodes))
    consistency = raw["consistency"]
    point = RecoveryPoint(
        id=point_id,
        vm=_text(raw["vm"]),
        job_id=_text(raw["job_id"]),
        taken_at=read_time(raw["taken_at"]),
        committed_at=read_time(raw["committed_at"]),
        route=Route(raw["route"]),
        consistency=ConsistencyLabel(
            Consistency(consistency["level"]), _text(consistency["reason"])
        ),
        freeze=None if raw["freeze"] is None else _freeze(raw["freeze"]),
        disks=tuple(disks),
    )
    return Manifest(point, tuple(maps))


def _freeze(raw: dict[str, Any]) -> FreezeReport:
    mounts = tuple(
        MountFreeze(
            mount=_text(row["mount"]),
            file_system=_text(row["file_system"]),
            freeze_ms=_finite(row["freeze_ms"]),
            frozen_ms=_finite(row["frozen_ms"]),
            skipped=_text(row["skipped"]),
            downgrades=row.get("downgrades") is True,
        )
        for row in raw["mounts"]
    )
    return FreezeReport(mounts, bool(raw["held"]), _finite(raw["hold_seconds"]))


def _text(value: Any) -> str:
    """As it can be shown and sent on: JSON may state half of a surrogate pair."""
    text = str(value)
    text.encode()
    return text


def _finite(value: Any) -> float:
    """JSON as Python reads it knows NaN and Infinity, which no answer of ours may hold."""
    number = float(value)
    if not math.isfinite(number):
        raise ManifestError(f"{number} is no number")
    return number
