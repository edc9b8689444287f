"""What `quiesce vault` refuses before anything is done: values out of bounds, options given in
vain, and an empty address, which must never be taken for the server's vault. And how it ends when
nobody reads what it says."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from conftest import QUIESCE
from vault_here import Here


class _Server(socketserver.ThreadingUnixStreamServer):
    asked = 0


class _Asked(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.asked += 1


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """Counts who asks it."""
    with _Server(str(tmp_path / "socket"), _Asked) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("QUIESCE_SERVER", f"unix:{tmp_path / 'socket'}")
        yield server
        server.shutdown()


@pytest.mark.parametrize("address", ["", " "])
@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("check",),
        ("verify",),
        ("verify", "--forecast"),
        ("copy", "--to", "/nowhere"),
        ("prune", "--keep-last", "1", "--yes"),
        ("gc", "--yes"),
        ("rebuild-index",),
        ("key", "list"),
        ("key", "add", "recovery"),
        ("key", "remove", "0" * 32, "--yes"),
        ("key", "rotate", "--yes"),
        ("lock",),
        ("points",),
    ],
    ids=" ".join,
)
def test_an_empty_address_is_no_address_and_never_the_servers_vault(
    here: Here, server: _Server, words: tuple[str, ...], address: str
) -> None:
    said = here.plain(*words, "--at", address)
    assert (said.code, "[input.vault-address-invalid]" in said.err) == (2, True), said.words
    assert "Say where the vault lies: `--at ADDRESS`" in said.words
    assert server.asked == 0


def test_a_copy_to_an_empty_address_is_not_one_to_the_folder_one_is_in(here: Here) -> None:
    said = here("copy", "--to", "", "--new")
    assert (said.code, "[input.vault-address-invalid]" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status", "--key-file", "k"), "`--key-file` goes with `--at`"),
        (("gc", "--passphrase-file", "p"), "`--passphrase-file` goes with `--at`"),
        (("prune", "--keep-last", "3"), "quiesce policy update NAME --keep-last N"),
        (("prune", "--keep-daily", "3"), "quiesce policy update NAME --keep-last N"),
        (("prune", "--zone", "Europe/Berlin"), "as the policies of their VMs say"),
        (("key", "rotate", "--to", "new.key", "--yes"), "server's own key file"),
        (("key", "rotate", "--new-passphrase-file", "p", "--yes"), "server's own key file"),
        (("key", "add", "recovery", "--new-passphrase-file", "p"), "key add passphrase"),
        (("verify", "--mode", "packs", "--sample", "3"), "Say `--mode sample`"),
        (("verify", "--forecast", "--minutes", "3"), "Leave `--minutes`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_given_in_vain_is_refused_before_a_server_is_asked(
    here: Here, server: _Server, words: tuple[str, ...], says: str
) -> None:
    said = here.plain(*words)
    assert (said.code, "[input.usage]" in said.err) == (2, True), said.words
    assert says in said.words
    assert server.asked == 0


def test_a_key_file_of_the_environment_waits_for_an_address(
    here: Here, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIESCE_VAULT_KEY_FILE", str(here.key_file))
    assert here.plain("status", "--at", str(here.folder)).code == 0
    assert server.asked == 0
    here.plain("status")
    assert server.asked > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("verify", "--mode", "sample", "--sample", "-3"), "--sample"),
        (("verify", "--mode", "sample", "--sample", "0"), "--sample"),
        (("verify", "--minutes", "nan"), "--minutes"),
        (("verify", "--minutes", "inf"), "--minutes"),
        (("verify", "--minutes", "-1"), "--minutes"),
        (("verify", "--requests", "-5"), "--requests"),
        (("verify", "--mode", "packs", "--sample", "3"), "`--sample`"),
        (("copy", "--to", "/nowhere", "--newest", "0"), "--newest"),
        (("prune", "--keep-last", "0", "--yes"), "--keep-last"),
        (("prune", "--keep-last", "1", "--keep-daily", "-4", "--yes"), "--keep-daily"),
        (("prune", "--keep-last", "1", "--zone", "UTC", "--yes"), "`--keep-daily N`"),
        (("gc", "--no-wait"), "`--no-wait`"),
        (("verify", "--no-wait"), "`--no-wait`"),
        (("key", "add", "key-file", "--to", "k", "--new-passphrase-file", "p"), "a key-file"),
        (("key", "add", "key-file"), "`--to FILE`"),
        (("key", "add", "recovery", "--to", "k"), "`--to` goes with a key file"),
        (("key", "rotate", "--dry-run"), "`--to FILE`"),
        (("status", "--passphrase-file", "p"), "exclude each other"),
        (("verify", "--without-key"), "exclude each other"),
        (("copy", "--to", "/nowhere", "--without-key"), "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_value_out_of_bounds_is_refused_without_a_server_too(
    here: Here, words: tuple[str, ...], says: str
) -> None:
    before = sorted(here.folder.rglob("*"))
    said = here(*words)
    assert (said.code, "[input.usage]" in said.err) == (2, True), said.words
    assert says in said.words
    assert sorted(here.folder.rglob("*")) == before


def test_pruning_a_vm_without_points_is_told_as_copying_it_is(here: Here) -> None:
    for words in (
        ("prune", "--keep-last", "1"),
        ("copy", "--to", str(here.tmp / "second"), "--new"),
    ):
        said = here(*words, "--vm", "nosuch")
        assert (said.code, "[vault.vm-unknown]" in said.err) == (5, True)
        assert "it has points of db, web" in said.words


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("made_before", [True, False])
def test_a_vault_is_made_with_a_key_file_and_a_passphrase(here: Here, made_before: bool) -> None:
    folder, key, phrase = here.tmp / "new", here.tmp / "new.key", here.tmp / "phrase"
    phrase.write_text("four words are long\n")
    if made_before:
        key.write_text(here.key_file.read_text())
    with_both = ("--key-file", str(key), "--new-passphrase-file", str(phrase))
    said = here.plain("create", str(folder), *with_both)
    assert said.code == 0, said.words
    for opens in (("--key-file", str(key)), ("--passphrase-file", str(phrase))):
        said = here.plain("status", "--at", str(folder), *opens)
        assert said.code == 0, said.words


def test_a_refused_passphrase_leaves_neither_a_key_file_nor_a_vault(here: Here) -> None:
    folder, key, phrase = here.tmp / "new", here.tmp / "new.key", here.tmp / "phrase"
    phrase.write_text("short")
    with_both = ("--key-file", str(key), "--new-passphrase-file", str(phrase))
    said = here.plain("create", str(folder), *with_both)
    assert (said.code, "[input.passphrase-short]" in said.err) == (2, True)
    assert not key.exists()
    assert not folder.exists()


def test_a_passphrase_that_is_no_text_is_refused_and_not_repeated(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environb, b"QUIESCE_VAULT_NEW_PASSPHRASE", b"secret \xff\xfe words")
    said = here("key", "add", "passphrase")
    assert (said.code, "[auth.key-invalid]" in said.err) == (2, True), said.words
    assert "not text in UTF-8" in said.words
    assert "secret" not in said.words
    assert len(here.json("key", "list")) == 1
    monkeypatch.setitem(os.environb, b"QUIESCE_VAULT_PASSPHRASE", b"secret \xff\xfe words")
    said = here.plain("status", "--at", str(here.folder))
    assert (said.code, "[auth.key-invalid]" in said.err) == (8, True), said.words


# ── a reader that goes away ──────────────────────────────────────────────────────────────────


def _into_a_closed_pipe(here: Here, *words: str, errors_too: bool = False) -> int:
    """The exit code of a command that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    place = ("--at", str(here.folder), "--key-file", str(here.key_file))
    done = subprocess.run(
        [*QUIESCE, *words, *(place if words[0] == "vault" else ())],
        env=dict(os.environ),
        stdout=writer,
        stderr=writer if errors_too else subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert errors_too or done.stderr == b""
    return done.returncode


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_whoever_stops_reading_does_not_change_how_it_ended(
    here: Here, more: tuple[str, ...]
) -> None:
    assert _into_a_closed_pipe(here, "vault", "verify", *more) == 0
    pack = here.packs()[0]
    pack.write_bytes(bytes(pack.stat().st_size))
    assert _into_a_closed_pipe(here, "vault", "verify", *more) == 9
    assert _into_a_closed_pipe(here, "vault", "verify", *more, errors_too=True) == 9


@pytest.mark.parametrize("words", [("--help",), ("vault", "--help"), ("explain",), ("vm", "list")])
def test_nor_that_of_any_other_command(here: Here, words: tuple[str, ...]) -> None:
    answered = 7 if words[0] == "vm" else 0
    assert _into_a_closed_pipe(here, *words, errors_too=True) == answered


def test_a_pack_of_which_many_drawn_chunks_are_damaged_is_told_once(here: Here) -> None:
    for pack in here.packs():
        data = bytearray(pack.read_bytes())
        for at in range(100, len(data) - 4000, 500):
            data[at] ^= 1  # within chunks: no byte of its footer
        pack.write_bytes(data)
    said = here("verify", "--mode", "sample", "--sample", "40", "--json")
    assert said.code == 9
    told = [finding["object"] for finding in json.loads(said.out)["findings"]]
    assert told
    assert len(told) == len(set(told))


# ── being asked at a terminal ────────────────────────────────────────────────────────────────


def types(monkeypatch: pytest.MonkeyPatch, *answers: str | None) -> list[str]:
    """Somebody at a terminal gives these answers, None for Ctrl-D; what they were asked."""
    asked: list[str] = []
    left = iter(answers)

    def prompt(words: str) -> str:
        asked.append(words)
        answer = next(left)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("sys.stdin", StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", prompt)
    return asked


def test_whoever_ends_the_input_instead_of_typing_a_key_is_told_how_else_to_give_one(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    types(monkeypatch, None, None, None)
    said = here.plain("status", "--at", str(here.folder))
    assert (said.code, "[vault.locked]" in said.err) == (8, True)
    assert "`--key-file FILE`" in said.words
    said = here("key", "add", "passphrase")
    assert (said.code, "[input.usage]" in said.err) == (2, True)
    assert "`--new-passphrase-file FILE`" in said.words


def test_a_passphrase_that_is_too_short_is_not_asked_for_twice(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = types(monkeypatch, "short", "short")
    said = here("key", "add", "passphrase")
    assert (said.code, "[input.passphrase-short]" in said.err) == (2, True)
    assert asked == ["New passphrase: "]


def test_two_passphrases_that_differ_change_nothing(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = types(monkeypatch, "four words are long", "four words are longer")
    said = here("key", "add", "passphrase")
    assert (said.code, "[input.passphrase-differs]" in said.err) == (2, True)
    assert len(asked) == 2
    assert len(here.json("key", "list")) == 1
