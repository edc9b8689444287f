"""Log bundles as tests make them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiesce.model.papers import Papers

LOG = b"2026-11-23T02:00:00Z INFO Daemon Daemon Azure Linux Agent Version:2.7.3.0\n"
FILES = {
    "var/log/waagent.log": LOG,
    "etc/waagent.conf": b"Extensions.Enabled=n\n",
    "etc/passwd": b"root:x:0:0\n",
    "var/lib/waagent/ABC.prv": b"PRIVATE",
    "commands/date": b"1795400000\n",
}


def tar_of(files: dict[str, bytes], prefix: str = "web1/") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size, info.mtime, info.mode = len(content), 1_795_400_000, 0o640
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def put(tmp_path: Path, content: bytes, name: str = "bundle.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def paths(papers: Papers) -> set[str]:
    return {paper.path for paper in papers.papers}


@contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    def listing() -> set[tuple[str, int]]:
        return {(str(each), each.lstat().st_mtime_ns) for each in folder.rglob("*")}

    before = listing()
    yield
    assert listing() == before
