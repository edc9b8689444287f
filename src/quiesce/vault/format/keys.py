"""Keys of a vault: one random vault key, wrapped by any number of key slots.

Derivation everywhere: `derive(key, purpose, salt) = BLAKE3(key=key, purpose ‖ 0x00 ‖ salt)`,
32 bytes; `purpose` is ASCII, keyed BLAKE3 is a pseudo-random function.

A slot is one JSON object `keys/<id>`:
    version 1 · kind "passphrase" | "key-file" | "recovery" · salt (32 bytes, hex)
    argon2 {time_cost, memory_kib, lanes}   only with "passphrase"
    added_at (ISO 8601)                     for people; may be missing, and proves nothing
    vault ("<vault_id> 1 <chunk_bytes>")    whose slot it is; may be missing, and proves nothing
    wrapped (48 bytes, hex): AES-256-GCM of the vault key, nonce twelve zeros (each wrapping key
    is used once, its salt is random), associated data "quiesce v1 slot " ‖ kind ‖ 0x00 ‖ vault id
Wrapping key: argon2id(passphrase in UTF-8, salt) or derive(secret, "quiesce v1 slot", salt).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from argon2.exceptions import Argon2Error
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quiesce.model.failure import AuthFailure, Evidence, VaultFailure

KEY_BYTES = 32
SLOT_LIMIT_BYTES = 64 * 1024
SLOT_VERSION = 1
_MAX_MEMORY_KIB = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KdfCost:
    """argon2id's cost. The default takes about 0.1–0.3 s (RFC 9106, second recommendation)."""

    time_cost: int = 3
    memory_kib: int = 64 * 1024
    lanes: int = 4


@dataclass(frozen=True, slots=True)
class Passphrase:
    """:raise AuthFailure: auth.key-invalid, when the text has no UTF-8: an environment variable may
    hold any bytes, and what cannot be written in UTF-8 would open nothing elsewhere
    """

    text: str = field(repr=False)
    cost: KdfCost = KdfCost()
    kind = "passphrase"

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError:
            # Not "from": that error repeats the passphrase.
            raise AuthFailure(
                "auth.key-invalid",
                "This passphrase is not text in UTF-8.",
                remedy="Give it in UTF-8, in a file or from a terminal that is set to it.",
            ) from None


@dataclass(frozen=True)
class _RandomKey:
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        return cls(secrets.token_bytes(KEY_BYTES))


class KeyFile(_RandomKey):
    """The content of a key file: 32 random bytes, stored by the operator as hex."""

    kind = "key-file"

    @classmethod
    def parse(cls, text: str) -> KeyFile:
        """:raise AuthFailure: auth.key-invalid"""
        return cls(_secret_of(text.strip(), bytes.fromhex))

    def text(self) -> str:
        return self.secret.hex() + "\n"


class RecoveryKey(_RandomKey):
    """A key to be printed once and kept on paper: base32 in groups of four."""

    kind = "recovery"

    @classmethod
    def parse(cls, text: str) -> RecoveryKey:
        """Spaces, dashes and case do not matter.

        :raise AuthFailure: auth.key-invalid
        """
        plain = "".join(text.split()).replace("-", "").upper()
        return cls(_secret_of(plain + "=" * (-len(plain) % 8), base64.b32decode))

    def text(self) -> str:
        plain = base64.b32encode(self.secret).decode().rstrip("=")
        return "-".join(plain[at : at + 4] for at in range(0, len(plain), 4))


KeyMaterial = Passphrase | KeyFile | RecoveryKey


def text_of_file(path: Path, *, remedy: str = "") -> str:
    """What a file says that holds a key or a passphrase.

    :raise AuthFailure: auth.key-unavailable
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as unreadable:
        raise AuthFailure(
            "auth.key-unavailable",
            f"The file {path} cannot be read.",
            evidence=[Evidence("not readable", str(path), raw=str(unreadable))],
            remedy=remedy,
        ) from unreadable


def _secret_of(text: str, decode: Any) -> bytes:
    try:
        secret: bytes = decode(text)
    except ValueError as inner:
        raise AuthFailure("auth.key-invalid", "This is not a key of a vault.") from inner
    if len(secret) != KEY_BYTES:
        raise AuthFailure(
            "auth.key-invalid",
            "This is not a key of a vault.",
            evidence=[Evidence(f"{len(secret)} bytes instead of {KEY_BYTES}", "key")],
        )
    return secret


def derive(key: bytes, purpose: str, salt: bytes = b"") -> bytes:
    """A 32-byte sub-key for one purpose."""
    return blake3(purpose.encode("ascii") + b"\0" + salt, key=key).digest()


class VaultKeys:
    """The vault key and what follows from it."""

    def __init__(self, vault_key: bytes) -> None:
        self._vault_key = vault_key
        self.chunk_id = derive(vault_key, "quiesce v1 chunk id")
        self.map_id = derive(vault_key, "quiesce v1 map id")
        self.names = derive(vault_key, "quiesce v1 names")

    def pack_cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(derive(self._vault_key, "quiesce v1 pack", salt))

    def object_cipher(self, kind: str, salt: bytes) -> AESGCM:
        return AESGCM(derive(self._vault_key, f"quiesce v1 object {kind}", salt))

    def wrap(self, material: KeyMaterial, vault_id: bytes, at: datetime) -> bytes:
        """A new key slot's bytes."""
        return wrap(self._vault_key, material, vault_id, at)


def wrap(vault_key: bytes, material: KeyMaterial, vault_id: bytes, at: datetime) -> bytes:
    salt = secrets.token_bytes(32)
    slot: dict[str, Any] = {
        "version": SLOT_VERSION,
        "kind": material.kind,
        "salt": salt.hex(),
        "vault": vault_id.decode(),
        "added_at": at.astimezone(UTC).isoformat(timespec="seconds"),
    }
    if isinstance(material, Passphrase):
        cost = material.cost
        slot["argon2"] = {
            "time_cost": cost.time_cost,
            "memory_kib": cost.memory_kib,
            "lanes": cost.lanes,
        }
        wrapping = _stretch(material.text, salt, cost)
    else:
        wrapping = derive(material.secret, "quiesce v1 slot", salt)
    bound = _bound(material.kind, vault_id)
    slot["wrapped"] = AESGCM(wrapping).encrypt(bytes(12), vault_key, bound).hex()
    return json.dumps(slot, sort_keys=True).encode()


def unlock(slots: Iterable[bytes], material: KeyMaterial | None, vault_id: bytes) -> VaultKeys:
    """Open the first slot that this key fits.

    :raise VaultFailure: vault.locked when there is no key at all; vault.version-unsupported when no
        slot opens and one is of a newer version; vault.corrupt-slots when all are damaged
    :raise AuthFailure: auth.key-wrong when no slot opens
    """
    if material is None:
        raise VaultFailure(
            "vault.locked",
            "The vault is locked: no key was given.",
            remedy="Give the passphrase, the key file or the recovery key of this vault.",
        )
    tried = others = damaged = 0
    newer = ""
    for stored in slots:
        try:
            slot = json.loads(stored)
            if slot["version"] != SLOT_VERSION:
                newer = f"version {str(slot['version'])[:20]!r}"
                continue
            if slot["kind"] != material.kind:
                others += 1
                continue
            salt = bytes.fromhex(slot["salt"])
            wrapped = bytes.fromhex(slot["wrapped"])
            if isinstance(material, Passphrase):
                wrapping = _stretch(material.text, salt, _stored_cost(slot["argon2"]))
            else:
                wrapping = derive(material.secret, "quiesce v1 slot", salt)
            tried += 1
            vault_key = AESGCM(wrapping).decrypt(
                bytes(12), wrapped, _bound(material.kind, vault_id)
            )
        except InvalidTag:
            continue
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError, Argon2Error):
            damaged += 1
            continue
        if len(vault_key) == KEY_BYTES:
            return VaultKeys(vault_key)
    if newer:
        raise VaultFailure(
            "vault.version-unsupported",
            "No key slot of this version opens, and one was written by a newer Quiesce.",
            evidence=[Evidence(newer, "key slots")],
            remedy="Upgrade Quiesce on this machine, or give a key that it has added.",
        )
    if damaged and not tried and not others:
        raise VaultFailure(
            "vault.corrupt-slots",
            "No key opens the vault: "
            + ("its only key slot is" if damaged == 1 else f"all of its {damaged} key slots are")
            + " damaged.",
            evidence=[Evidence(f"{damaged} unreadable", "key slots")],
        )
    raise AuthFailure(
        "auth.key-wrong",
        f"This {material.kind.replace('-', ' ')} opens no key slot of the vault.",
        evidence=[Evidence(f"{tried} slots of this kind tried, {damaged} unreadable", "key slots")],
    )


def _bound(kind: str, vault_id: bytes) -> bytes:
    return b"quiesce v1 slot " + kind.encode() + b"\0" + vault_id


def _stored_cost(raw: Any) -> KdfCost:
    """A stored cost, refused where it would serve to exhaust whoever opens the vault."""
    cost = KdfCost(int(raw["time_cost"]), int(raw["memory_kib"]), int(raw["lanes"]))
    if not (
        1 <= cost.time_cost <= 64
        and 8 <= cost.memory_kib <= _MAX_MEMORY_KIB
        and 1 <= cost.lanes <= 64
    ):
        raise ValueError("argon2 cost out of range")
    return cost


def _stretch(text: str, salt: bytes, cost: KdfCost) -> bytes:
    return hash_secret_raw(
        text.encode(),
        salt,
        time_cost=cost.time_cost,
        memory_cost=cost.memory_kib,
        parallelism=cost.lanes,
        hash_len=KEY_BYTES,
        type=Type.ID,
    )
