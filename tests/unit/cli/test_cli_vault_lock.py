"""`quiesce vault lock`: what it says, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_scene import Clouds, Place, clouds_of_run, place_in
from locked_bucket import locked_place
from vault_here import Here, Said

from quiesce.vault import KeyFile, Vault


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    yield from clouds_of_run(tmp_path_factory.mktemp("clouds"))


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path, capsys)


@pytest.fixture
def place(clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = locked_place(clouds, tmp_path, monkeypatch)
    Vault.create(place.create(), KeyFile(bytes(32)))
    return place


def test_locks_are_asked_for_raised_and_lowered_only_when_that_is_said(
    here: Here, place: Place
) -> None:
    def lock(*words: str) -> Said:
        return here.plain("lock", "--at", place.address, *words)

    def terms() -> tuple[int, str | None]:
        view = json.loads(lock("--json").out)
        return view["days"], view["mode"]

    assert "asks for no locks" in lock().words
    said = lock("--days", "30")
    assert said.code == 0, said.words
    assert "30 days from its backup on, and at most 37, in governance mode" in said.words
    assert "back up every VM once" in said.words

    unsaid = lock("--days", "60", "--mode", "compliance")
    assert "[input.confirmation-needed]" in unsaid.err
    assert terms() == (30, "governance")
    shown = lock("--days", "60", "--mode", "compliance", "--dry-run")
    assert "Nothing was changed." in shown.words
    assert "60 days from its backup on, and at most 73, in compliance mode" in shown.words
    assert terms() == (30, "governance")
    assert lock("--days", "60", "--mode", "compliance", "--yes").code == 0
    assert terms() == (60, "compliance")

    refused = lock("--days", "7", "--mode", "governance")
    assert refused.code == 2
    assert "`--lower`" in refused.words
    assert terms() == (60, "compliance")
    assert lock("--days", "7", "--mode", "governance", "--lower").code == 0
    assert terms() == (7, "governance")
    assert lock("--days", "0", "--lower").code == 0
    assert terms() == (0, None)


def test_a_bucket_without_object_lock_names_the_next_step(
    here: Here, clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_in(clouds.get("s3"), tmp_path, monkeypatch)
    Vault.create(place.create(), KeyFile(bytes(32)))
    said = here.plain("lock", "--at", place.address, "--days", "30")
    assert said.code != 0
    assert "[storage.locks-unsupported]" in said.err
    assert "put-object-lock-configuration" in said.words
    assert list(place.open().list("locks/")) == []


def test_a_folder_and_another_cloud_say_that_they_have_no_such_locks(
    here: Here, clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = here.plain("lock", "--at", str(here.folder), "--days", "30")
    assert "[storage.locks-unsupported]" in said.err
    assert not (here.folder / "locks").exists()
    place = place_in(clouds.get("gs"), tmp_path, monkeypatch)
    Vault.create(place.create(), KeyFile(bytes(32)))
    said = here.plain("lock", "--at", place.address, "--days", "30")
    assert "[storage.locks-unsupported]" in said.err
    assert "retention policy of its own" in said.words


@pytest.mark.parametrize(
    "words", [(), ("--at", "s3://x", "--mode", "compliance"), ("--at", "s3://x", "--days", "3651")]
)
def test_what_is_missing_is_said_before_anything_is_asked(
    here: Here, words: tuple[str, ...]
) -> None:
    said = here.plain("lock", *words)
    assert (said.code, "[input.usage]" in said.err) == (2, True)
