"""Restores a disk from docs/explanation/vault-format.md alone: imports nothing of Quiesce.

    independent_reader.py VAULT KEY_FILE [POINT DISK OUTPUT]

Without POINT it lists the points. It scans the packs' footers and needs no index.
"""

from __future__ import annotations

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


def derive(key: bytes, purpose: bytes, salt: bytes = b"") -> bytes:
    return blake3(purpose + b"\0" + salt, key=key).digest()


def unzstd(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame)


class Vault:
    def __init__(self, folder: Path, *, secret: bytes = b"", passphrase: str = "") -> None:
        self.folder = folder
        self.format = json.loads((folder / "format").read_bytes())
        assert (self.format["format"], self.format["version"]) == ("quiesce-vault", 1)
        self.key = self._unlock(secret, passphrase)
        self.where: dict[bytes, tuple[Path, AESGCM, int, int, int, int, int]] = {}
        for pack in sorted((folder / "packs").glob("*/*")):
            self._scan(pack)

    def _unlock(self, secret: bytes, passphrase: str) -> bytes:
        bound = f"{self.format['vault_id']} 1 {self.format['chunk_bytes']}".encode()
        for path in sorted((self.folder / "keys").glob("slot-*")):
            slot = json.loads(path.read_bytes())
            salt, kind = bytes.fromhex(slot["salt"]), slot["kind"].encode()
            if slot["kind"] == "passphrase":
                cost = slot["argon2"]
                wrapping = hash_secret_raw(
                    passphrase.encode(), salt, cost["time_cost"], cost["memory_kib"],
                    cost["lanes"], 32, Type.ID,
                )  # fmt: skip
            else:
                wrapping = derive(secret, b"quiesce v1 slot", salt) if secret else bytes(32)
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

    def blob(self, blob: bytes) -> bytes:
        path, cipher, offset, size, codec, kind, place = self.where[blob]
        with path.open("rb") as file:
            file.seek(offset)
            stored = file.read(size)
        bound = (bytes(32) if codec == 2 else blob) + bytes([codec, kind])
        data = cipher.decrypt(offset.to_bytes(12, "big"), stored, bound)
        plain = unzstd(data) if codec else data
        if codec == 2:
            chunk = self.format["chunk_bytes"]
            plain = plain[place * chunk : (place + 1) * chunk]
        purpose = b"quiesce v1 chunk id" if kind == 0 else b"quiesce v1 map id"
        assert blake3(plain, key=derive(self.key, purpose)).digest() == blob
        return plain

    def point(self, point_id: str) -> dict[str, Any]:
        data = (self.folder / "points" / point_id).read_bytes()
        assert data[:8] == b"QVSEAL1\n"
        assert blake3(data[:-32]).digest() == data[-32:]
        cipher = AESGCM(derive(self.key, b"quiesce v1 object manifest", data[8:40]))
        frame = cipher.decrypt(bytes(12), data[40:-32], data[:40] + point_id.encode())
        manifest: dict[str, Any] = json.loads(unzstd(frame))
        return manifest

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
    vault = Vault(Path(sys.argv[1]), secret=bytes.fromhex(Path(sys.argv[2]).read_text()))
    if len(sys.argv) == 3:
        for point in vault.points():
            found = vault.point(point)
            print(point, found["vm"], found["taken_at"], *(d["name"] for d in found["disks"]))
    else:
        with open(sys.argv[5], "wb") as output:
            vault.restore(sys.argv[3], sys.argv[4], output)
