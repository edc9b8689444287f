"""`quiesce vault … --at`: everything that is possible when there is a vault and no server."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from zoneinfo import ZoneInfo

import pytest
from vault_here import Here, Said, content, make_points

from quiesce.cli import follow, screen, vault_place, vault_points
from quiesce.cli.main import run
from quiesce.cli.options import Common
from quiesce.cli.working import working
from quiesce.model.failure import Failure, JobFailure, StorageFailure
from quiesce.model.policy import Retention
from quiesce.model.progress import Progress
from quiesce.service.pruning import prune_vault
from quiesce.vault import Vault
from quiesce.vault.format.keys import KeyMaterial
from quiesce.vault.stores.store import Store


def test_a_point_is_listed_and_restored_bit_for_bit(here: Here) -> None:
    said = here("points", "--vm", "db")
    assert said.code == 0
    assert "db" in said.out
    assert "web" not in said.out
    (point,) = here.json("points", "--vm", "db")
    target = here.tmp / "db.img"
    said = here("restore", point["id"], "--to", str(target))
    assert said.code == 0, said.words
    assert f"Disk vda is at {target}" in said.words
    assert target.read_bytes() == content("db", 0)
    again = here("restore", point["id"], "--to", str(target))
    assert (again.code, "[restore.target-exists]" in again.err) == (3, True)


def test_a_file_named_qcow2_is_qcow2_unless_another_format_is_said(here: Here) -> None:
    (point,) = here.json("points", "--vm", "db")
    target = here.tmp / "db.qcow2"
    assert here("restore", point["id"], "--to", str(target)).code == 0
    assert target.read_bytes()[:4] == b"QFI\xfb"
    said = here("restore", point["id"], "--to", str(target), "--format", "raw", "--overwrite")
    assert said.code == 0
    assert target.read_bytes() == content("db", 0)


def test_a_missing_folder_is_to_be_made_and_not_to_be_given_access_to(here: Here) -> None:
    (point,) = here.json("points", "--vm", "db")
    target = here.tmp / "new folder" / "db.img"
    said = here("restore", point["id"], "--to", str(target))
    assert (said.code, "[restore.target-not-writable]" in said.err) == (3, True)
    assert f"`mkdir -p '{target.parent}'`" in said.words


def test_a_point_is_named_by_how_only_its_id_begins(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (point,) = here.json("points", "--vm", "db")
    said = here("restore", point["id"][:6], "--to", f"{here.tmp}/db.img")
    assert said.code == 0, said.words
    assert (here.tmp / "db.img").read_bytes() == content("db", 0)
    assert here("restore", point["id"][:3], "--to", f"{here.tmp}/no.img").code == 5
    monkeypatch.setattr(vault_points, "_LEAST_DIGITS", 0)
    several = here("restore", "", "--to", f"{here.tmp}/no.img")
    assert (several.code, "[input.point-ambiguous]" in several.words) == (2, True)
    assert point["id"] in several.words


def test_a_path_that_ends_with_a_slash_is_a_folder_also_one_that_is_not_there_yet(
    here: Here,
) -> None:
    (point,) = here.json("points", "--vm", "db")
    said = here("restore", point["id"], "--to", f"{here.tmp}/new folder/")
    assert said.code == 0, said.words
    assert (here.tmp / "new folder" / "vda.img").read_bytes() == content("db", 0)


@pytest.mark.parametrize("command", [("status",), ("points",), ("key", "list"), ("gc",)])
def test_a_server_is_not_named_in_vain(
    here: Here, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = here(*command, "--server", "http://127.0.0.1:9")
    assert (said.code, "`--server` and `--at` exclude each other." in said.words) == (2, True)
    monkeypatch.setenv("QUIESCE_SERVER", "http://127.0.0.1:9")
    assert here(*command).code == 0


def test_a_key_is_not_given_to_a_lock_in_vain(here: Here) -> None:
    said = here("lock", "--days", "3")
    assert (said.code, "`--key-file` would do nothing" in said.words) == (2, True)


def test_who_waits_for_a_vault_is_told_what_for(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Queue[str] = Queue()
    waited: list[str] = []

    def unreachable(store: Store, key: KeyMaterial) -> Vault:
        waited.append(told.get(timeout=60))
        raise StorageFailure("storage.unreachable", "Nobody answers.")

    monkeypatch.setattr(vault_place, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(screen.err, "print", lambda *words, **_: told.put(str(words[0])))
    monkeypatch.setattr(Vault, "open", unreachable)
    assert here("status").code == 3
    assert waited == [f"Still waiting for the vault at {here.folder} to open."]


def test_a_program_is_told_the_same_next_steps_as_people(here: Here) -> None:
    (here.tmp / "other.key").write_text("0" * 64)
    wrong = ("points", "--at", str(here.folder), "--key-file", str(here.tmp / "other.key"))
    steps = json.loads(here.plain(*wrong, "--json").out)["remedy"].splitlines()
    assert len(steps) == 2
    said = here.plain(*wrong).err
    for step in steps:
        assert step in said


def test_without_at_it_says_what_to_say(here: Here) -> None:
    for command in (("points",), ("restore", "0" * 16, "--to", "x.img")):
        said = here.plain(*command)
        assert said.code == 2
        assert "say `--at ADDRESS`" in said.words


def test_a_locked_vault_says_how_a_key_is_given(here: Here) -> None:
    said = here.plain("status", "--at", str(here.folder))
    assert "--key-file FILE" in said.words
    assert (said.code, "[vault.locked]" in said.words) == (8, True)


def test_a_place_without_a_vault_ends_with_5(here: Here) -> None:
    (here.folder / "format").unlink()
    said = here("status")
    assert (said.code, "[vault.not-a-vault]" in said.err) == (5, True)


def test_a_wrong_key_ends_with_8(here: Here) -> None:
    other = here.tmp / "other.key"
    other.write_text("ab" * 32)
    said = here.plain("status", "--at", str(here.folder), "--key-file", str(other))
    assert (said.code, "[auth.key-wrong]" in said.err) == (8, True)
    assert "the key was read from this file" in said.words
    assert "other.key" in said.err
    other.write_text("not a key")
    said = here.plain("status", "--at", str(here.folder), "--key-file", str(other))
    assert (said.code, "[auth.key-invalid]" in said.err) == (8, True)


def test_a_passphrase_file_that_is_said_wins_over_a_key_file_of_the_environment(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrase = here.tmp / "phrase"
    phrase.write_text("four words are long\n")
    assert here("key", "add", "passphrase", "--new-passphrase-file", str(phrase)).code == 0
    monkeypatch.setenv("QUIESCE_VAULT_KEY_FILE", str(here.tmp / "nowhere.key"))
    said = here.plain("status", "--at", str(here.folder), "--passphrase-file", str(phrase))
    assert said.code == 0, said.words


def test_status_is_that_of_a_server(here: Here) -> None:
    said = here("status")
    assert "4 of 2 VMs" in said.out
    assert here.json("status")["points"] == 4


# ── copies ───────────────────────────────────────────────────────────────────────────────────


def test_a_copy_is_planned_made_and_gone_on_with(here: Here) -> None:
    target = here.tmp / "second"
    said = here("copy", "--to", str(target), "--new", "--dry-run")
    assert said.code == 0
    assert f"There is no vault at {target} yet; the copy makes it." in said.words
    assert "Would copy 4 points and 4 packs" in said.words
    assert not target.exists()
    said = here("copy", "--to", str(target), "--new")
    assert said.code == 0
    assert "4 points and 4 packs" in said.words
    assert len(here.json("points", at=target)) == 4
    assert here.json("copy", "--to", str(target))["packs"] == 0


def test_an_empty_mount_point_is_not_filled(here: Here) -> None:
    target = here.tmp / "usb"
    target.mkdir()
    said = here("copy", "--to", str(target))
    assert (said.code, "[vault.copy-missing]" in said.err) == (5, True)
    assert "--new" in said.words
    assert list(target.iterdir()) == []


def test_a_copy_of_one_vms_newest_point(here: Here) -> None:
    target = here.tmp / "second"
    here("copy", "--to", str(target), "--new", "--vm", "web", "--newest", "1")
    (point,) = here.json("points", at=target)
    assert (point["vm"], point["job_id"]) == ("web", "web-2")
    assert here("status", at=target).out.split().count("VM") == 1
    again = here("copy", "--to", str(target), "--vm", "web", "--newest", "1").words
    assert f"{target}: Nothing was missing there. There already: 1 point." in again
    said = here("copy", "--to", str(target), "--vm", "nobody")
    assert (said.code, "[vault.vm-unknown]" in said.err) == (5, True)


def test_a_copy_without_any_key(here: Here) -> None:
    target = here.tmp / "second"
    said = here.plain(
        "copy", "--at", str(here.folder), "--to", str(target), "--new", "--without-key"
    )
    assert said.code == 0
    assert "Without the key it is not known" in said.words
    assert len(here.json("points", at=target)) == 4


def test_another_vault_is_refused_as_a_target(here: Here) -> None:
    here.plain("create", str(here.tmp / "other"), "--key-file", str(here.tmp / "other.key"))
    said = here("copy", "--to", str(here.tmp / "other"), "--new")
    assert (said.code, "[vault.copy-other-vault]" in said.err) == (6, True)


def test_a_damaged_source_ends_with_9_and_names_the_point(here: Here) -> None:
    (db,) = here.json("points", "--vm", "db")
    for pack in here.packs():
        if pack.stat().st_size and _only_of(here, pack, db["id"]):
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1  # within a chunk: no byte of its footer
            pack.write_bytes(data)
    said = here("copy", "--to", str(here.tmp / "second"), "--new")
    assert said.code == 9
    assert "Copied: 3 points; not copied, for damage: 1." in said.words
    assert f"point {db['id']} of db" in said.words
    assert {p["vm"] for p in here.json("points", at=here.tmp / "second")} == {"web"}


def _only_of(here: Here, pack: Path, point_id: str) -> bool:
    """Each backup has a pack of its own, stored before its manifest."""
    manifests = sorted((here.folder / "points").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    packs = sorted(here.packs(), key=lambda path: path.stat().st_mtime_ns)
    return [path.name for path in manifests].index(point_id) == packs.index(pack)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_added_listed_used_and_removed(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrase = here.tmp / "phrase"
    phrase.write_text("four words are long\n")
    said = here("key", "add", "passphrase", "--new-passphrase-file", str(phrase))
    assert said.code == 0, said.words
    recovery = here.json("key", "add", "recovery")["recovery_key"]
    slots = here.json("key", "list")
    assert sorted(slot["kind"] for slot in slots) == ["key-file", "passphrase", "recovery"]
    assert "passphrase" in here("key", "list").out
    at = ("--at", str(here.folder))
    assert here.plain("status", *at, "--passphrase-file", str(phrase)).code == 0
    monkeypatch.setenv("QUIESCE_VAULT_PASSPHRASE", "four words are long")
    assert here.plain("status", *at).code == 0
    paper = here.tmp / "paper"
    paper.write_text(recovery.lower())
    assert here.plain("status", *at, "--key-file", str(paper)).code == 0
    (slot,) = (slot["id"] for slot in slots if slot["kind"] == "passphrase")
    assert "Would remove key slot" in here("key", "remove", slot, "--dry-run").out
    assert here("key", "remove", slot).code == 2  # nobody can be asked
    assert len(here.json("key", "list")) == 3
    assert "Removed key slot" in here("key", "remove", slot, "--yes").out
    said = here.plain("status", *at)
    assert (said.code, "[auth.key-wrong]" in said.err) == (8, True)


def test_a_recovery_key_is_shown_once_and_as_something_to_keep(here: Here) -> None:
    said = here("key", "add", "recovery")
    assert "is shown this once" in said.words
    assert len([line for line in said.out.splitlines() if line.count("-") == 12]) == 1


def test_a_short_passphrase_is_refused(here: Here) -> None:
    phrase = here.tmp / "phrase"
    phrase.write_text("short")
    said = here("key", "add", "passphrase", "--new-passphrase-file", str(phrase))
    assert (said.code, "[input.passphrase-short]" in said.err) == (2, True)


def test_no_passphrase_is_taken_from_the_command_line(here: Here) -> None:
    said = here("key", "add", "passphrase", "four words are long")
    assert said.code == 2
    assert len(here.json("key", "list")) == 1


def test_the_only_key_stays(here: Here) -> None:
    (slot,) = here.json("key", "list")
    said = here("key", "remove", slot["id"], "--yes")
    assert (said.code, "[vault.last-key]" in said.err) == (6, True)


def test_a_key_file_is_rotated_and_the_old_one_opens_nothing(here: Here) -> None:
    new = here.tmp / "new.key"
    said = here("key", "rotate", "--to", str(new), "--yes")
    assert said.code == 0, said.words
    assert "Removed key slot" in said.words
    assert new.stat().st_mode & 0o777 == 0o600
    assert here("status").code == 8
    at = ("--at", str(here.folder))
    assert here.plain("status", *at, "--key-file", str(new)).code == 0
    assert here.plain("status", *at, "--key-file", str(new)).out.count("4 of 2 VMs") == 1
    said = here.plain("key", "rotate", *at, "--key-file", str(new), "--to", str(new), "--yes")
    assert (said.code, "[input.file-exists]" in said.err) == (2, True)


def test_a_vault_is_made_with_a_key_and_a_recovery_key(here: Here) -> None:
    folder, key = here.tmp / "new", here.tmp / "made.key"
    said = here.plain("create", str(folder), "--key-file", str(key), "--recovery", "--json")
    assert said.code == 0, said.words
    made = json.loads(said.out)
    assert made["location"] == str(folder)
    assert len(made["recovery_key"].split("-")) == 13
    assert here.plain("status", "--at", str(folder), "--key-file", str(key)).code == 0
    again = here.plain("create", str(folder), "--key-file", str(key))
    assert (again.code, "[vault.exists]" in again.err) == (6, True)
    assert key.exists()


def test_a_key_that_was_made_for_nothing_leaves_no_file(here: Here) -> None:
    (here.tmp / "full").mkdir()
    (here.tmp / "full" / "photo.jpg").write_text("mine")
    key = here.tmp / "made.key"
    said = here.plain("create", str(here.tmp / "full"), "--key-file", str(key))
    assert "[storage.not-empty]" in said.err
    assert not key.exists()


# ── clearing up and checks ───────────────────────────────────────────────────────────────────


def test_pruning_shows_first_asks_and_deletes(here: Here) -> None:
    said = here("prune", "--keep-last", "1", "--dry-run")
    assert said.out.count("Would delete") == 2
    assert "web: 1 point stays; at least " in said.words
    assert here("prune", "--keep-last", "1").code == 2
    assert len(here.json("points")) == 4
    assert here("prune", "--keep-last", "1", "--yes").out.count("Deleted ") == 2
    assert len(here.json("points")) == 2
    assert "No point is to be deleted." in here("prune", "--keep-last", "1").out
    assert here("prune").code == 2  # what is to be kept must be said


def test_a_point_that_no_rule_wants_only_since_the_question_stays(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        """Somebody who takes the time of a backup to answer."""

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            make_points(here.vault, {"web": 4})
            return "y\n"

    oldest = {point["id"] for point in here.json("points", "--vm", "web")[1:]}
    newest = here.json("points", "--vm", "web")[0]["id"]
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdin", Terminal())
        said = here("prune", "--vm", "web", "--keep-last", "1")
    assert said.code == 0, said.words
    assert said.out.count("Deleted ") == 2
    left = {point["id"] for point in here.json("points", "--vm", "web")}
    assert (len(left), newest in left, left.isdisjoint(oldest)) == (2, True, True)


def test_a_server_is_told_what_was_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[tuple[str, ...], object]] = []
    plans = [{"vm": "web", "plan": {"removed": [{"id": "old"}], "executed": True}}]

    class Server:
        def __enter__(self) -> Server:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def get(self, *path: str) -> object:
            return {"delete_packs": 1, "ripe_marks": ["garbage/ab"]}

        def post(self, *path: str, body: object = None, **query: object) -> object:
            told.append((path, body))
            return plans if path[-1] == "prune" else {"id": "01", "status": "Queued"}

    monkeypatch.setattr(Common, "client", lambda self: Server())
    assert run(["vault", "prune", "--yes", "--json"]) == 0
    assert run(["vault", "gc", "--yes", "--no-wait", "--json"]) == 0
    assert told == [
        (("vault", "prune"), None),
        (("vault", "prune"), {"points": ["old"]}),
        (("vault", "gc"), {"marks": ["garbage/ab"]}),
    ]


def test_pruning_several_vms_tells_how_far_it_is_with_all_of_them(here: Here) -> None:
    make_points(here.vault, {"mail": 2})
    seen: list[Progress] = []
    rules = Retention(keep_last=1, keep_daily=0)
    prune_vault(here.vault, rules, ZoneInfo("UTC"), dry_run=True, on_progress=seen.append)
    shares = [progress.done_bytes / progress.total_bytes for progress in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert 0.5 in shares  # "mail" is done, and "web" is to come
    assert "Look at points: Completed" in here("prune", "--keep-last", "1", "--dry-run").out


def test_a_line_of_progress_says_how_far_it_is_how_fast_and_with_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow, "_LINE_SECONDS", 0)
    with working("Collect garbage", go_on="", quiet=False) as (tell, _):
        tell(Progress(512, 2048, rate=256, phase="Deleting packs"))
        tell(Progress(phase="Writing the index"))
    said = capsys.readouterr().out
    assert "Collect garbage:  25 %  256 B/s  6.0 s left  Deleting packs" in said
    assert "Collect garbage: Writing the index" in said


def test_garbage_is_shown_and_marked(here: Here) -> None:
    assert "There is no garbage to mark or to delete now." in here("gc", "--dry-run").out
    here("prune", "--keep-last", "1", "--vm", "web", "--yes")
    said = here("gc")
    assert said.code == 0, said.words
    assert "Collect garbage: Completed" in said.out
    plan = here.json("gc", "--dry-run")
    assert plan["delete_packs"] == 0
    # Stored just now: not even marked yet, and said to be so.
    assert plan["unmarked"]["packs"] == 2
    assert "nothing refers to it yet or any more: 2 packs" in here("gc", "--dry-run").words


def test_garbage_that_waits_says_until_when_and_how_to_go_on(here: Here) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=30)
    for path in here.folder.rglob("*"):
        os.utime(path, (long_ago.timestamp(),) * 2)
    here("prune", "--keep-last", "1", "--vm", "web", "--yes")
    said = here("gc")
    assert "Marked as garbage, for a day at least: 2 packs" in said.words
    assert "UTC (in 1 d 0 h) on." in said.words
    assert f"`quiesce vault gc --at {here.folder}" in said.words
    plan = here.json("gc", "--dry-run")
    (waiting,) = plan["waiting"]
    assert (waiting["packs"], waiting["size_bytes"]) == (2, plan["waiting_bytes"])
    due = datetime.fromisoformat(waiting["due_at"])
    assert due.utcoffset() == timedelta(0)
    assert abs(due - datetime.now(UTC) - timedelta(hours=24)) < timedelta(minutes=10)
    assert f"May be deleted from {due:%Y-%m-%d %H:%M} UTC (in " in here("gc", "--dry-run").words


def test_checks_find_damage_and_end_with_9(here: Here) -> None:
    assert "The vault is whole." in here("verify").out
    assert "The vault is whole." in here("verify", "--mode", "chunks").out
    said = here("verify", "--mode", "sample", "--sample", "8")
    assert "8 of 8 chunks drawn by chance were restored." in said.words
    forecast = here.json("verify", "--mode", "packs", "--forecast")
    assert forecast["bytes"] > 0
    pack = here.packs()[0]
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    without = ("verify", "--at", str(here.folder), "--without-key")
    said = here.plain(*without)
    assert said.code == 9
    assert "1 pack is damaged; which points need it is known only with the key." in said.words
    assert "4 packs checked" in said.words
    assert "0 points" not in said.words
    said = here("verify")
    assert said.code == 9
    assert "4 points and 4 packs checked" in said.words
    assert "of it if the disk still holds it" in said.words or "no newest point" in said.words


def test_what_points_have_lost_is_told_wherever_they_are_shown(here: Here) -> None:
    older, lost = (point["id"] for point in here.json("points", "--vm", "web")[1::-1])
    assert here.json("status")["damage"]["points"] == []
    assert "damage" not in here("points").out
    (pack,) = (p for p in here.packs() if p.name == pack_of(here, lost))
    data = bytearray(pack.read_bytes())
    data[100] ^= 1  # in the first chunk
    pack.write_bytes(data)
    found = here.json("verify", code=9)["damage"]
    (point,) = found["points"]
    assert (point["point_id"], point["vm"], found["looked_at"]) == (lost, "web", 4)
    assert point["disks"] == [
        {
            "name": "vda",
            "hurt_bytes": 131072,
            "ranges": [{"offset_bytes": 0, "length_bytes": 131072, "heals": True}],
            "healable_bytes": 131072,
            "more_ranges": 0,
            "more_bytes": 0,
        }
    ]
    assert here.json("status")["damage"]["points"] == [point]
    said = here("status").words
    assert "Damage was noticed: 0 packs are missing, 1 are damaged" in said
    assert f"{lost} web" in said
    assert "0 + 131072" in said
    (row,) = (line for line in here("points").out.splitlines() if lost in line)
    assert "128.0 KiB lost" in row
    (row,) = (line for line in here("points").out.splitlines() if older in line)
    assert "lost" not in row
    keyless = ("verify", "--at", str(here.folder), "--without-key", "--json")
    assert json.loads(here.plain(*keyless).out)["damage"] is None


def pack_of(here: Here, point_id: str) -> str:
    """The pack that this point alone needs."""
    contents = here.vault.contents
    place = contents.index.locate(here.vault.manifest(point_id).maps[0].nodes[0])
    assert place is not None
    return contents.index.name_of(place.pack).hex()


def test_a_check_that_reached_its_limit_says_how_to_go_on(here: Here) -> None:
    size = str(here.packs()[0].stat().st_size + 40_000)
    said = here("verify", "--read", size)
    assert said.code == 0, said.words
    assert " of 4 packs checked" in said.words
    assert "0 points" not in said.words
    assert "--cursor packs:" in said.words
    assert f"--at {here.folder}" in said.words


@pytest.mark.parametrize("more", [("--read", "1"), ("--read", "20000"), ("--requests", "1")])
@pytest.mark.parametrize("keyless", [False, True], ids=["with the key", "without"])
def test_a_check_whose_limit_lets_it_look_at_nothing_is_refused_and_never_green(
    here: Here, more: tuple[str, str], keyless: bool
) -> None:
    def verify(*words: str) -> Said:
        if keyless:
            return here.plain("verify", "--at", str(here.folder), "--without-key", *words)
        return here("verify", *words)

    said = verify(*more)
    assert (said.code, "[input.limit-too-small]" in said.words) == (2, True), said.words
    assert "Nothing damaged" not in said.words
    assert "No pack, point or chunk was looked at" in said.words
    report = json.loads(verify(*more, "--json").out)
    assert (report["packs_checked"], report["stuck"]) == (0, True)
    again = verify(*more, "--cursor", report["cursor"])
    assert again.code == 2
    assert verify("--read", "10MiB", "--cursor", report["cursor"]).code == 0


def test_a_check_whose_time_is_up_before_the_first_pack_is_never_green(here: Here) -> None:
    said = here("verify", "--minutes", "0.0000001")
    assert said.code == 2, said.words
    assert "Nothing damaged" not in said.words


def test_a_lost_index_is_rebuilt(here: Here) -> None:
    for segment in (here.folder / "index").iterdir():
        segment.unlink()
    told = here("rebuild-index", "--dry-run").words
    assert "Would read the lists of 4 packs, write about 1 segment of the index" in told
    assert list((here.folder / "index").iterdir()) == []
    said = here("rebuild-index")
    assert said.code == 0, said.words
    assert "The index tells of 4 packs" in said.words
    assert "Nothing is missing." in here("check").out


def test_a_check_that_reads_no_pack_does_not_call_a_damaged_vault_whole(here: Here) -> None:
    pack = here.packs()[0]
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)
    said = here("check")
    assert said.code == 0
    assert "whole" not in said.words
    assert f"still what was stored: `quiesce vault verify --at {here.folder}" in said.words
    assert here("verify").code == 9


# ── being stopped ────────────────────────────────────────────────────────────────────────────


def interrupted(times: int, by: signal.Signals = signal.SIGINT) -> None:
    """Work that looks once whether it is to stop, after so many Ctrl-C."""
    with working("Copy vault", go_on="Go on.", quiet=True) as (_, cancelled):
        for _ in range(times):
            signal.raise_signal(by)
        if cancelled():
            raise JobFailure("job.cancelled", "The job was cancelled.")


def test_ctrl_c_ends_the_work_cleanly_and_says_how_to_go_on() -> None:
    interrupted(0)
    with pytest.raises(Failure) as caught:
        interrupted(1)
    assert (caught.value.code, int(caught.value.exit_code)) == ("job.cancelled", 130)
    assert caught.value.remedy == "Go on."
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_whoever_ends_it_with_sigterm_ends_it_cleanly_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Failure) as caught:
        interrupted(1, by=signal.SIGTERM)
    assert (caught.value.code, int(caught.value.exit_code)) == ("job.cancelled", 130)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(2)
