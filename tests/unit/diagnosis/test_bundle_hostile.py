"""Log bundles that are hostile, damaged or none: what is not read of them, and what is said."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from made_bundles import LOG, nothing_changes, paths, put, tar_of

from quiesce.diagnosis import bundle_archive, bundle_stream
from quiesce.diagnosis.bundle import read_bundle
from quiesce.model.failure import InputFailure
from quiesce.model.papers import Papers


def refused(path: Path) -> InputFailure:
    with pytest.raises(InputFailure) as caught:
        read_bundle(path)
    return caught.value


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


def become_nobody_in(folder: Path) -> None:
    os.chdir(folder)
    if os.geteuid() == 0:
        os.setuid(65534)


def read_as_nobody(folder: Path) -> Papers:
    """Root may read everything, so that its tests read in a process without its rights. It stands
    in the folder already, for nobody may not be allowed on the way to it."""
    with ProcessPoolExecutor(1, get_context("fork"), become_nobody_in, (folder,)) as nobody:
        return nobody.submit(read_bundle, Path()).result()


def test_a_folder_that_may_not_be_read_is_named() -> None:
    with TemporaryDirectory() as name:  # pytest's own are for its user only
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "etc").mkdir(mode=0o000)
        (folder / "waagent.log").write_bytes(LOG)
        (folder / "waagent.log").chmod(0o644)
        assert "cannot be read" in read_as_nobody(folder).warnings[0]


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
        (b"\x80" + os.urandom(5000), "neither text nor an archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "a 7z archive"),
        (b"\x7fELF" + bytes(50), "a program"),
        (gzip.compress(b"x" * 100, mtime=0)[:-12], "cannot be unpacked"),
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
