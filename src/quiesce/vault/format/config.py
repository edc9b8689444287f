"""What makes a folder of objects a vault: the object `format`.

JSON in clear: format "quiesce-vault" · version 1 · vault_id (32 hex) · chunk_bytes ·
created_at · checksum = BLAKE3 hex of the JSON without `checksum`, keys sorted, no spaces.
It is written last when a vault is made, and never changes.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from blake3 import blake3

from quiesce.model.failure import Evidence, VaultFailure
from quiesce.vault.format.times import read_time
from quiesce.vault.stores.store import ObjectMissing, Store

FORMAT_KEY = "format"
VERSION = 1
CHUNK_BYTES = 128 * 1024
_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class VaultConfig:
    vault_id: str
    chunk_bytes: int
    created_at: datetime

    @classmethod
    def new(cls, created_at: datetime) -> VaultConfig:
        return cls(secrets.token_hex(16), CHUNK_BYTES, created_at)

    @property
    def bound(self) -> bytes:
        """What key slots are bound to, so that a forged configuration opens no slot."""
        return f"{self.vault_id} {VERSION} {self.chunk_bytes}".encode()


def write_config(config: VaultConfig) -> bytes:
    values: dict[str, Any] = {
        "format": "quiesce-vault",
        "version": VERSION,
        "vault_id": config.vault_id,
        "chunk_bytes": config.chunk_bytes,
        "created_at": config.created_at.astimezone(UTC).isoformat(),
    }
    values["checksum"] = _checksum(values)
    return json.dumps(values, sort_keys=True, indent=1).encode()


def _checksum(values: dict[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != "checksum"}
    return blake3(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_config(store: Store) -> VaultConfig:
    """:raise VaultFailure: vault.not-a-vault, vault.version-unsupported, vault.corrupt-format"""
    try:
        stored = store.get(FORMAT_KEY, limit_bytes=_LIMIT_BYTES)
    except ObjectMissing as inner:
        raise VaultFailure(
            "vault.not-a-vault",
            f"{store.address} holds no vault.",
            evidence=inner.evidence,
            remedy="Check the path, or create a vault there.",
        ) from inner
    return parse_config(stored, store.address)


def parse_config(stored: bytes, address: str) -> VaultConfig:
    """:raise VaultFailure: as `read_config`"""
    where = f"{address}/{FORMAT_KEY}"
    try:
        values = json.loads(stored)
        if values["format"] != "quiesce-vault":
            raise ValueError(f"format {values['format']!r}")
        if values["version"] != VERSION:
            raise VaultFailure(
                "vault.version-unsupported",
                f"The vault at {address} has format version {str(values['version'])[:20]}; this "
                f"Quiesce reads and writes version {VERSION}.",
                evidence=[Evidence(f"version {str(values['version'])[:20]}", where)],
                remedy="Upgrade Quiesce on this machine; nothing was changed.",
            )
        if values["checksum"] != _checksum(values):
            raise ValueError("checksum does not match")
        config = VaultConfig(
            str(values["vault_id"]),
            int(values["chunk_bytes"]),
            read_time(values["created_at"]),
        )
        if not 4096 <= config.chunk_bytes <= 1024 * 1024 or config.chunk_bytes % 4096:
            raise ValueError(f"chunks of {config.chunk_bytes} bytes")
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as inner:
        raise VaultFailure(
            "vault.corrupt-format",
            f"The format object of the vault at {address} is damaged.",
            evidence=[Evidence(str(inner)[:200], where)],
            remedy="Restore this one small file from a copy of the vault.",
        ) from inner
    return config
