"""Log bundles: what is read of them, wherever it lies and however it is packed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from made_bundles import FILES, LOG, nothing_changes, paths, put, tar_of

from quiesce.diagnosis.bundle import read_bundle

KNOWN = {"/var/log/waagent.log", "/etc/waagent.conf", "command:date"}


def zip_of(files: dict[str, bytes], **options: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content, **options)
    return made.getvalue()


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.compress],
    ids=["tar", "gzip", "xz", "bzip2", "zstd"],
)
def test_tar_archives_are_told_by_their_bytes_and_not_by_their_names(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = put(tmp_path, pack(tar_of(FILES)), "bundle.zip")
    with nothing_changes(tmp_path):
        papers = read_bundle(path)
    assert paths(papers) == KNOWN
    assert papers.warnings == ()
    log = papers.get("/var/log/waagent.log")
    assert log is not None
    assert (log.text.encode(), log.mode, log.size_bytes) == (LOG, 0o640, len(LOG))
    assert log.modified_at is not None
    assert papers.taken_at is not None
    assert papers.taken_at.timestamp() == 1_795_400_000
    assert papers.host_clock_at is None


def test_zip_archives_and_folders_are_read_alike(tmp_path: Path) -> None:
    assert paths(read_bundle(put(tmp_path, zip_of(FILES), "bundle.tar.gz"))) == KNOWN
    for name, content in FILES.items():
        target = tmp_path / "folder" / "device_0" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    assert paths(read_bundle(tmp_path / "folder")) == KNOWN


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("var/log/waagent.log", "/var/log/waagent.log"),
        ("/var/log/waagent.log", "/var/log/waagent.log"),
        ("./a/b/c/var/log/waagent.log.1", "/var/log/waagent.log.1"),
        ("logs/waagent.log", "/var/log/waagent.log"),
        ("web1\\var\\log\\waagent.log", "/var/log/waagent.log"),
        (
            "x/Microsoft.Azure.RecoveryServices.VMSnapshotLinux/extension.log",
            "/var/log/azure/Microsoft.Azure.RecoveryServices.VMSnapshotLinux/extension.log",
        ),
        (
            "azure/Microsoft.Azure.RecoveryServices.VMSnapshotLinux/1.0.9/extension.log",
            "/var/log/azure/Microsoft.Azure.RecoveryServices.VMSnapshotLinux/1.0.9/extension.log",
        ),
        (
            "Quiesce.VmBackup-0.2.0.1/status/3.status",
            "/var/lib/waagent/Quiesce.VmBackup-0.2.0.1/status/3.status",
        ),
        ("7.status", "/var/lib/waagent/unknown/status/7.status"),
        ("extension.log", "/var/log/azure/unknown/extension.log"),
        ("mountinfo", "/proc/self/mountinfo"),
        ("q/commands/units", "command:units"),
    ],
)
def test_files_are_known_wherever_they_lie(tmp_path: Path, name: str, path: str) -> None:
    assert paths(read_bundle(put(tmp_path, tar_of({name: LOG}, "")))) == {path}


def test_a_folder_from_the_midst_of_a_guest_is_known_by_its_own_path(tmp_path: Path) -> None:
    folder = tmp_path / "rescue/var/log"
    (folder / "quiesce").mkdir(parents=True)
    (folder / "waagent.log").write_bytes(LOG)
    (folder / "quiesce/extension.log").write_bytes(LOG)
    known = {"/var/log/waagent.log", "/var/log/quiesce/extension.log"}
    assert paths(read_bundle(folder)) == known
    assert paths(read_bundle(folder / "quiesce" / "..")) == known


@pytest.mark.parametrize(
    ("name", "content", "path"),
    [
        ("anything.txt", LOG, "/var/log/waagent.log"),
        ("waagent.log.gz", gzip.compress(LOG, mtime=0), "/var/log/waagent.log"),
        ("note", b"22 1 254:1 / / rw - ext4 /dev/vda1 rw\n", "/proc/self/mountinfo"),
        (
            "x.log",
            b"2024 [Microsoft.Azure.RecoveryServices.V]x\n",
            "/var/log/azure/unknown/extension.log",
        ),
    ],
)
def test_a_single_file_is_known_by_its_name_or_by_what_it_holds(
    tmp_path: Path, name: str, content: bytes, path: str
) -> None:
    assert paths(read_bundle(put(tmp_path, content, name))) == {path}


def test_what_the_collector_printed_is_a_bundle_too(tmp_path: Path) -> None:
    token = b"0123456789abcdef0123456789abcdef"
    printed = b"#%b command date 0\n1795400000\n\n#%b end 1795400001\n" % (token, token)
    papers = read_bundle(put(tmp_path, printed))
    assert paths(papers) == {"command:date"}
    assert papers.host_clock_at is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_logs_that_windows_tools_have_saved_are_read(tmp_path: Path, encoding: str) -> None:
    text = LOG.decode().replace("\n", "\r\n") * 20
    papers = read_bundle(put(tmp_path, text.encode(encoding), "waagent.log"))
    (paper,) = papers.papers
    assert paper.text == LOG.decode() * 20


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "waagent.log"
    with path.open("wb") as file:
        file.truncate(5 << 30)  # a hole: it takes no space
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + LOG * 4000)
    papers = read_bundle(path)
    (paper,) = papers.papers
    assert paper.cut
    assert paper.size_bytes > 5 << 30
    assert paper.text.encode().endswith(LOG)
    assert len(paper.text) == 256 * 1024


def test_an_index_brings_back_what_a_copy_loses(tmp_path: Path) -> None:
    index = b"""[{"name": "commands/units", "path": "command:units", "status": 1, "size_bytes": 5},
        {"name": "x", "path": "/etc/waagent.conf", "problem": "No such file or directory"},
        {"path": 3}, 7, {"path": "/etc/x", "problem": "\\u001b[31m"}]"""
    papers = read_bundle(
        put(
            tmp_path,
            tar_of({"commands/units": b"x", "index.json": index, "var/log/waagent.log": LOG}),
        )
    )
    units, conf = papers.command("units"), papers.get("/etc/waagent.conf")
    assert units is not None
    assert conf is not None
    assert (units.status, conf.problem) == (1, "No such file or directory")
    assert "\x1b" not in repr(papers)


def test_files_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    files = {
        "a/var/log/waagent.log": LOG,
        "b/var/log/waagent.log": LOG,
        "b/etc/waagent.conf": b"x=1\n",
    }
    papers = read_bundle(put(tmp_path, tar_of(files, "")))
    assert len(papers.papers) == 2
    assert "several machines. These are of b; left out: a." in papers.warnings[0]
