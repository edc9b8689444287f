"""The backup extension as it travels into a VM: one zip file, the same bytes from the same source.

The files of `quiesce.guest` are read as data and never imported: they run on the guest's Python.
Python runs a zip that holds `__main__.py` as it is, and the Azure Linux agent takes the same file
as a handler package, since `HandlerManifest.json` lies at its root.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from quiesce.model.failure import ExtensionFailure

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip can hold; real times would make the bytes differ."""
_SHIPPED = (".py", ".json", ".sh")
_VERSION = re.compile(r"""^VERSION\s*=\s*["']([0-9]+(?:\.[0-9]+)*)["']""", re.MULTILINE)
_DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class ExtensionPackage:
    """`version` is the guest's own; `digest` is the SHA-256 of `content` in hexadecimal."""

    version: str
    digest: str
    content: bytes

    @property
    def full_version(self) -> str:
        """Tells two builds of one version apart: the digest's first characters are part of it."""
        return f"{self.version}+{self.digest[:_DIGEST_CHARS]}"

    @property
    def file_name(self) -> str:
        return f"quiesce-extension-{self.full_version}.zip"


@cache
def extension_package() -> ExtensionPackage:
    """The package of this installation of Quiesce, built once per process.

    :raise ExtensionFailure: extension.package-corrupt when this installation lacks its files
    """
    return build(resources.files("quiesce") / "guest")


def build(source: Traversable) -> ExtensionPackage:
    """Pack `source`, a folder with `__main__.py` in it. Raises as `extension_package`."""
    files = {name: entry.read_bytes() for name, entry in _shipped(source, "")}
    if "__main__.py" not in files:
        raise ExtensionFailure(
            "extension.package-corrupt",
            f"This installation of Quiesce lacks the extension's files in {source}.",
            remedy="Install Quiesce again.",
        )
    match = _VERSION.search(files.get("version.py", b"").decode())
    if match is None:
        raise ExtensionFailure(
            "extension.package-corrupt",
            f"The extension's files in {source} state no version.",
            remedy="Install Quiesce again.",
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, wherever it is built
            entry.external_attr = (0o100644) << 16
            entry.compress_type = zipfile.ZIP_STORED  # zlib builds differ; some guests lack it
            archive.writestr(entry, files[name])
    content = packed.getvalue()
    return ExtensionPackage(
        version=match.group(1), digest=hashlib.sha256(content).hexdigest(), content=content
    )


def _shipped(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _shipped(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SHIPPED):
            yield prefix + entry.name, entry
