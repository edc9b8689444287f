"""Log bundles: what is read of them, and what of hostile ones is not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from quiesce.diagnosis import bundle_archive, bundle_stream
from quiesce.diagnosis.bundle import read_bundle
from quiesce.model.failure import InputFailure
from quiesce.model.papers import Papers

LOG = b"2026-11-23T02:00:00Z INFO Daemon Daemon Azure Linux Agent Version:2.7.3.0\n"
FILES = {
    "var/log/waagent.log": LOG,
    "etc/waagent.conf": b"Extensions.Enabled=n\n",
    "etc/passwd": b"root:x:0:0\n",
    "var/lib/waagent/ABC.prv": b"PRIVATE",
    "commands/date": b"1795400000\n",
}
KNOWN = {"/var/log/waagent.log", "/etc/waagent.conf", "command:date"}


def tar_of(files: dict[str, bytes], prefix: str = "web1/") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size, info.mtime, info.mode = len(content), 1_795_400_000, 0o640
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zip_of(files: dict[str, bytes], **options: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content, **options)
    return made.getvalue()


def put(tmp_path: Path, content: bytes, name: str = "bundle.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def paths(papers: Papers) -> set[str]:
    return {paper.path for paper in papers.papers}


def refused(path: Path) -> InputFailure:
    with pytest.raises(InputFailure) as caught:
        read_bundle(path)
    return caught.value


@contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    def listing() -> set[tuple[str, int]]:
        return {(str(each), each.lstat().st_mtime_ns) for each in folder.rglob("*")}

    before = listing()
    yield
    assert listing() == before


# ---------------------------------------------------------------- what is read


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
        ("waagent.log.gz", gzip.compress(LOG), "/var/log/waagent.log"),
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


# ---------------------------------------------------------------- hostile and damaged ones


def test_links_devices_and_names_that_lead_out_are_left_out(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind in (
            ("etc/waagent.conf", tarfile.SYMTYPE),
            ("etc/os-release", tarfile.LNKTYPE),
            ("etc/environment", tarfile.CHRTYPE),
            ("proc/loadavg", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../../var/log/waagent.log", "x/../../../etc/waagent.conf", "waagent.log"):
            info = tarfile.TarInfo(name)
            info.size = len(LOG)
            archive.addfile(info, io.BytesIO(LOG))
    path = put(tmp_path, made.getvalue())
    with nothing_changes(tmp_path.parent):
        papers = read_bundle(path)
    assert paths(papers) == {"/var/log/waagent.log"}
    said = "\n".join(papers.warnings)
    assert "links (2), such as etc/waagent.conf" in said
    assert "devices and pipes (2), such as etc/environment" in said
    assert "names that lead out of the bundle (2), such as ../../var/log/waagent.log" in said


def test_in_a_folder_no_link_is_followed_and_nothing_but_files_is_opened(tmp_path: Path) -> None:
    outside = put(tmp_path, LOG, "outside.log")
    folder = tmp_path / "bundle"
    (folder / "var/log").mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "var/log/waagent.log").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "etc/waagent.conf")
    (folder / "etc/os-release").write_text("ID=debian\n")
    papers = read_bundle(folder)
    assert paths(papers) == {"/etc/os-release"}
    assert any(
        "devices and pipes (1), such as etc/waagent.conf" in each for each in papers.warnings
    )
    assert any("links (2)" in each for each in papers.warnings)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "etc").mkdir(mode=0o000)
    (tmp_path / "waagent.log").write_bytes(LOG)
    assert "cannot be read" in read_bundle(tmp_path).warnings[0]


def test_links_and_secrets_in_zip_archives_are_left_out(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        link = zipfile.ZipInfo("etc/waagent.conf")
        link.create_system, link.external_attr = 3, (0o120777 << 16)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("waagent.log", LOG)
        archive.writestr(zipfile.ZipInfo("etc/os-release"), b"ID=x\n", zipfile.ZIP_LZMA)
    papers = read_bundle(put(tmp_path, made.getvalue()))
    assert paths(papers) == {"/var/log/waagent.log"}
    assert len(papers.warnings) == 2


def test_of_two_files_of_one_name_the_last_one_counts(tmp_path: Path) -> None:
    first, second = tar_of({"waagent.log": b"x\n"}), tar_of({"waagent.log": LOG})
    papers = read_bundle(put(tmp_path, first[:1024] + second))
    (paper,) = papers.papers
    assert paper.text.encode() == LOG
    assert "second files of a name" in papers.warnings[0]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["tar", "gzip", "xz"])
def test_of_a_truncated_archive_the_beginning_is_read(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    files = {"waagent.log": LOG, "etc/waagent.conf": os.urandom(60_000)}
    whole = pack(tar_of(files))
    papers = read_bundle(put(tmp_path, whole[: len(whole) * 2 // 3]))
    assert paths(papers) == {"/var/log/waagent.log"}
    assert any("damaged" in each for each in papers.warnings)


def test_an_archive_with_junk_in_the_middle_says_that_it_is_damaged(tmp_path: Path) -> None:
    whole = (
        tar_of({"waagent.log": LOG})[:1024] + os.urandom(2048) + tar_of({"etc/waagent.conf": b""})
    )
    assert any("damaged" in each for each in read_bundle(put(tmp_path, whole)).warnings)


def test_control_characters_nul_and_broken_utf8_are_made_harmless(tmp_path: Path) -> None:
    dirty = LOG + b"\x1b[31mred\x00\xff\xfe\xe2\x80\xaeevil\r\n" + LOG * 3
    (paper,) = read_bundle(put(tmp_path, dirty, "waagent.log")).papers
    assert all(each.isprintable() or each in "\n\t" for each in paper.text)
    assert "[31mred" in paper.text
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "waagent.log").write_bytes(LOG)
    os.symlink("x", os.fsencode(folder) + b"/\xff\x1b[31m")
    assert "\x1b" not in repr(read_bundle(folder))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (os.urandom(5000), "neither text nor an archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "a 7z archive"),
        (b"\x7fELF" + bytes(50), "a program"),
        (gzip.compress(b"x" * 100)[:-12], "cannot be unpacked"),
        (b"\x1f\x8b\x08junk", "cannot be unpacked"),
        (b"\xfd7zXZ\x00junk", "cannot be unpacked"),
    ],
)
def test_what_is_no_bundle_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, why: str
) -> None:
    failure = refused(put(tmp_path, content))
    assert failure.code == "input.bundle-not-understood"
    assert why in failure.evidence[0].fact


@pytest.mark.parametrize("content", [b"", b"a shopping list\n", b"PK\x05\x06" + bytes(18)])
def test_what_tells_nothing_about_backups_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refused(put(tmp_path, content)).code == "input.bundle-empty"


def test_a_path_that_no_system_could_have_is_refused() -> None:
    assert refused(Path("x" * 5000)).code == "input.bundle-unreadable"


def test_names_of_endless_folders_are_passed_over(tmp_path: Path) -> None:
    deep = "etc/" * 10_000 + "waagent.conf"
    papers = read_bundle(put(tmp_path, tar_of({deep: b"x", "waagent.log": LOG}, "")))
    assert paths(papers) == {"/var/log/waagent.log"}


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").code == "input.bundle-not-found"
    assert refused(tmp_path).code == "input.bundle-empty"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").code == "input.bundle-unreadable"
    assert refused(Path("/dev/zero")).code == "input.bundle-unreadable"


def test_more_members_than_any_bundle_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_archive, "MOST_MEMBERS", 10)
    files = {"waagent.log": LOG, **{f"x{n}": b"" for n in range(20)}, "etc/waagent.conf": b""}
    papers = read_bundle(put(tmp_path, tar_of(files)))
    assert paths(papers) == {"/var/log/waagent.log"}
    assert "Not all of it was read: it has more than 10 members." in papers.warnings


def test_reading_ends_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(0, 10_000, 10))
    monkeypatch.setattr(bundle_stream.time, "monotonic", lambda: float(next(moments)))
    files = {"waagent.log": LOG, **{f"x{n}": b"x" * 600 for n in range(50)}}
    papers = read_bundle(put(tmp_path, tar_of(files)))
    assert any("took more than 60 s" in each for each in papers.warnings)


# ---------------------------------------------------------------- bounded memory

_MEASURE = """
import re, sys
from pathlib import Path
from quiesce.diagnosis.bundle import read_bundle
from quiesce.model.failure import Failure

def peak():
    # Not ru_maxrss: that one begins with what the parent had.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
try:
    read_bundle(Path(sys.argv[1]))
except Failure as failure:
    print(failure.code, file=sys.stderr)
print(peak() - before)
"""
MOST_KIB = 128 * 1024


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name.decode())
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 else tarfile.GNU_FORMAT)


def bomb_of_zeros(path: Path) -> None:
    """A gigabyte of log in a megabyte."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(b"var/log/waagent.log", 1 << 30))
        for _ in range(1024):
            file.write(bytes(1 << 20))


def pax_header_of_gigabytes(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(b"pax", 1 << 30, b"x"))
        for _ in range(1024):
            file.write(b"a" * (1 << 20))


def global_headers_without_end(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number in range(3000):
            content = b"30 key%013d=0123456789ab\n" % number
            file.write(header(b"pax", len(content), b"g") + content.ljust(512, b"\0"))


def many_members(path: Path) -> None:
    one = header(b"var/log/azure/a.b/x.log", 0)
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(210):
            file.write(one * 1000)


def many_wanted_files(path: Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(3000):
            info = tarfile.TarInfo(f"var/log/azure/a.b/{number}.log")
            info.size = 64 * 1024
            archive.addfile(info, io.BytesIO("é".encode() * 32 * 1024))


def zip_with_a_huge_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(60_000):
            archive.writestr(zipfile.ZipInfo(f"{number:060}"), b"")


def zip_with_the_longest_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(38_000):
            archive.writestr(zipfile.ZipInfo(f"{number:060}"), b"")
        archive.writestr("waagent.log", LOG)
    assert path.stat().st_size > 7 << 20


def xz_with_the_largest_dictionary(path: Path) -> None:
    kind = {"id": lzma.FILTER_LZMA2, "dict_size": 64 << 20, "mode": lzma.MODE_FAST, "depth": 1}
    with lzma.open(path, "wb", filters=[kind | {"mf": lzma.MF_HC3, "nice_len": 273}]) as file:
        file.write(header(b"var/log/waagent.log", 80 << 20))
        for _ in range(80):
            file.write(bytes(1 << 20))


def xz_with_a_huge_dictionary(path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    path.write_bytes(lzma.compress(tar_of(FILES), filters=filters))


@pytest.mark.parametrize(
    "make",
    [
        bomb_of_zeros,
        pax_header_of_gigabytes,
        global_headers_without_end,
        many_members,
        many_wanted_files,
        zip_with_a_huge_directory,
        zip_with_the_longest_directory,
        xz_with_the_largest_dictionary,
        xz_with_a_huge_dictionary,
    ],
)
def test_memory_stays_bounded_whatever_the_bundle_claims(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "bomb"
    make(path)
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_MEASURE), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    assert "internal" not in ran.stderr
    assert int(ran.stdout) < MOST_KIB, ran.stdout
