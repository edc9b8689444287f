"""Reads a vault from docs/explanation/vault-format.md alone: imports nothing of Quiesce.

    independent_reader.py VAULT KEY_FILE [POINT DISK OUTPUT]

Without POINT it lists the points. It scans the packs' footers and needs no index. KEY_FILE may hold
a recovery key as well.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Row = tuple[bytes, int, int, int, int]
"""Id, offset, length, codec, place."""


def derive(key: bytes, purpose: bytes, salt: bytes = b"") -> bytes:
    return blake3(purpose + b"\0" + salt, key=key).digest()


def unzstd(frame: bytes, most_bytes: int) -> bytes:
    assert 0 <= zstandard.frame_content_size(frame) <= most_bytes
    return zstandard.ZstdDecompressor().decompress(frame)


def secret_in(text: str) -> bytes:
    """Of a key file, or of a recovery key."""
    plain = "".join(text.split()).replace("-", "")
    return bytes.fromhex(plain) if len(plain) == 64 else base64.b32decode(plain.upper() + "====")


class Vault:
    def __init__(self, folder: Path, *, secret: bytes = b"", passphrase: str = "") -> None:
        self.folder = folder
        self.format = json.loads((folder / "format").read_bytes())
        assert (self.format["format"], self.format["version"]) == ("quiesce-vault", 1)
        rest = {name: value for name, value in self.format.items() if name != "checksum"}
        told = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
        assert blake3(told).hexdigest() == self.format["checksum"]
        self.key = self._unlock(secret, passphrase)
        self.where: dict[bytes, tuple[Path, AESGCM, int, int, int, int, int]] = {}
        self.packs: dict[bytes, set[Row]] = {}
        for pack in sorted((folder / "packs").glob("*/*")):
            self._scan(pack)

    def _unlock(self, secret: bytes, passphrase: str) -> bytes:
        bound = f"{self.format['vault_id']} 1 {self.format['chunk_bytes']}".encode()
        for path in sorted((self.folder / "keys").glob("slot-*")):
            slot = json.loads(path.read_bytes())
            if slot["version"] != 1 or bool(passphrase) != (slot["kind"] == "passphrase"):
                continue
            salt, kind = bytes.fromhex(slot["salt"]), slot["kind"].encode()
            if slot["kind"] == "passphrase":
                cost = slot["argon2"]
                wrapping = hash_secret_raw(
                    passphrase.encode(), salt, cost["time_cost"], cost["memory_kib"],
                    cost["lanes"], 32, Type.ID,
                )  # fmt: skip
            else:
                wrapping = derive(secret, b"quiesce v1 slot", salt)
            try:
                return AESGCM(wrapping).decrypt(
                    bytes(12),
                    bytes.fromhex(slot["wrapped"]),
                    b"quiesce v1 slot " + kind + b"\0" + bound,
                )
            except InvalidTag:
                continue
        raise SystemExit("no slot opens with this key")

    def _scan(self, path: Path) -> None:
        data = path.read_bytes()
        assert blake3(data).hexdigest() == path.name, f"{path} is damaged"
        assert data[:8] == b"QVPACK1\n"
        cipher = AESGCM(derive(self.key, b"quiesce v1 pack", data[8:40]))
        start, length, magic = struct.unpack("<II8s", data[-16:])
        assert magic == b"QVPEND1\n"
        nonce = start.to_bytes(12, "big")
        rows = cipher.decrypt(nonce, data[start : start + length], data[:64])
        for blob, offset, size, codec, kind, place in struct.iter_unpack("<32sIIBBB5x", rows):
            self.where[blob] = (path, cipher, offset, size, codec, kind, place)
            row = (blob, offset, size, codec, place)
            self.packs.setdefault(bytes.fromhex(path.name), set()).add(row)

    def blob(self, blob: bytes) -> bytes:
        path, cipher, offset, size, codec, kind, place = self.where[blob]
        with path.open("rb") as file:
            file.seek(offset)
            stored = file.read(size)
        bound = (bytes(32) if codec == 2 else blob) + bytes([codec, kind])
        data = cipher.decrypt(offset.to_bytes(12, "big"), stored, bound)
        plain = unzstd(data, 1 << 20) if codec else data
        if codec == 2:
            chunk = self.format["chunk_bytes"]
            plain = plain[place * chunk : (place + 1) * chunk]
        purpose = b"quiesce v1 chunk id" if kind == 0 else b"quiesce v1 map id"
        assert blake3(plain, key=derive(self.key, purpose)).digest() == blob
        return plain

    def unseal(self, key: str, kind: bytes, name: str) -> bytes:
        data = (self.folder / key).read_bytes()
        assert data[:8] == b"QVSEAL1\n"
        assert blake3(data[:-32]).digest() == data[-32:]
        cipher = AESGCM(derive(self.key, b"quiesce v1 object " + kind, data[8:40]))
        frame = cipher.decrypt(bytes(12), data[40:-32], data[:40] + name.encode())
        return unzstd(frame, 64 << 20)

    def point(self, point_id: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(
            self.unseal(f"points/{point_id}", b"manifest", point_id)
        )
        assert manifest["version"] == 1
        names = derive(self.key, b"quiesce v1 names")
        assert derive(names, b"point", manifest["job_id"].encode()).hex()[:16] == point_id
        return manifest

    def records(self) -> dict[str, dict[str, Any]]:
        """Key → what it says."""
        kinds = {"sessions": "session", "deleted": "deleted", "garbage": "garbage"}
        found = {}
        for folder, kind in (kinds | {"damage": "damage"}).items():
            for path in (self.folder / folder).glob("*"):
                key = f"{folder}/{path.name}"
                bound = "lease" if key == "sessions/gc" else kind
                found[key] = json.loads(self.unseal(key, bound.encode(), key))
        return found

    def index(self) -> dict[bytes, set[Row]]:
        """What is in each pack, as the segments have it; `packs` is what the footers say."""
        told: dict[bytes, set[Row]] = {}
        for path in (self.folder / "index").glob("*"):
            plain = self.unseal(f"index/{path.name}", b"index", "")
            assert path.read_bytes()[-32:].hex() == path.name
            packs, rows = struct.unpack_from("<II", plain)
            start = 8 + packs * 36
            assert len(plain) == start + rows * 44
            names = [plain[at : at + 32] for at in range(8, start, 36)]
            for blob, pack, offset, extent in struct.iter_unpack("<32sIII", plain[start:]):
                assert not extent >> 29 & 1
                row = (blob, offset, extent & 0x1FFFFF, extent >> 30, extent >> 21 & 0xFF)
                told.setdefault(names[pack], set()).add(row)
        return told

    def points(self) -> list[str]:
        hidden = {path.name for path in self.folder.glob("deleted/*")}
        return sorted({path.name for path in self.folder.glob("points/*")} - hidden)

    def restore(self, point_id: str, disk_name: str, out: BinaryIO) -> None:
        disk = next(d for d in self.point(point_id)["disks"] if d["name"] == disk_name)
        out.truncate(disk["size_bytes"])
        for chunk, blob in self._walk(b"".join(map(bytes.fromhex, disk["nodes"])), 2):
            start = chunk * disk["chunk_bytes"]
            out.seek(start)
            out.write(self.blob(blob)[: disk["size_bytes"] - start])

    def _walk(self, ids: bytes, levels: int, first: int = 0) -> Any:
        """(place, chunk id) of every chunk that is no hole."""
        for at in range(0, len(ids), 32):
            blob, place = ids[at : at + 32], first + at // 32
            if blob == bytes(32):
                continue
            if levels:
                yield from self._walk(self.blob(blob), levels - 1, place * 256)
            else:
                yield place, blob


if __name__ == "__main__":
    vault = Vault(Path(sys.argv[1]), secret=secret_in(Path(sys.argv[2]).read_text()))
    if len(sys.argv) == 3:
        for point in vault.points():
            found = vault.point(point)
            print(point, found["vm"], found["taken_at"], *(d["name"] for d in found["disks"]))
    else:
        with open(sys.argv[5], "wb") as output:
            vault.restore(sys.argv[3], sys.argv[4], output)
