"""Stored bytes may be anything: only coded failures come out."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vault_scene import Scene, disk_of

from quiesce.model.failure import Failure
from quiesce.vault import LocalStore
from quiesce.vault.format.config import parse_config
from quiesce.vault.format.keys import KeyFile, RecoveryKey, VaultKeys, unlock
from quiesce.vault.format.manifest import ManifestError, read_manifest
from quiesce.vault.format.pack import PackError, whole_footer
from quiesce.vault.format.sealed import SealError, seal, unseal
from quiesce.vault.format.segment import SegmentError, read_segment

KEYS = VaultKeys(bytes(32))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary(max_size=300))
def test_sealed_objects(data: bytes) -> None:
    with pytest.raises(SealError):
        unseal(KEYS, "index", "", data)


@given(st.binary(max_size=300))
def test_packs(data: bytes) -> None:
    with pytest.raises(PackError):
        whole_footer(KEYS, data)
    with pytest.raises(PackError):
        whole_footer(KEYS, b"QVPACK1\n" + data + b"QVPEND1\n")


@given(st.binary(max_size=300))
def test_segments(data: bytes) -> None:
    try:
        names, rows = read_segment(data)
    except SegmentError:
        return
    assert np.all(rows["pack"] < len(names))


MANIFEST_KEYS = ("vm", "job_id", "taken_at", "committed_at", "route", "consistency")


@given(JSON | st.fixed_dictionaries({"version": st.just(1)}, optional=dict.fromkeys(
    MANIFEST_KEYS, JSON)))  # fmt: skip
def test_manifests(raw: object) -> None:
    stored = seal(KEYS, "manifest", "p", json.dumps(raw).encode())
    with pytest.raises(ManifestError):
        read_manifest(KEYS, "p", stored)


@given(st.binary(max_size=200) | JSON.map(lambda raw: json.dumps(raw).encode()))
def test_format_objects(data: bytes) -> None:
    with pytest.raises(Failure) as caught:
        parse_config(data, "there")
    assert caught.value.code in ("vault.corrupt-format", "vault.version-unsupported")


@given(st.binary(max_size=200) | JSON.map(lambda raw: json.dumps(raw).encode()))
def test_key_slots(data: bytes) -> None:
    with pytest.raises(Failure) as caught:
        unlock([data], KeyFile(bytes(32)), b"id")
    assert caught.value.code == "vault.corrupt-slots"


@given(st.text(max_size=80))
def test_keys_as_typed(text: str) -> None:
    for parse in (KeyFile.parse, RecoveryKey.parse):
        with pytest.raises(Failure) as caught:
            parse(text)
        assert caught.value.code == "auth.key-invalid"


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(["format", "keys/*", "index/*", "packs/*/*", "points/*"]),
    place=st.floats(0, 1),
    junk=st.binary(max_size=40),
    keep=st.booleans(),
)
def test_any_damage_anywhere_gives_right_bytes_or_a_coded_failure(
    scene: Scene, kind: str, place: float, junk: bytes, keep: bool
) -> None:
    disk = disk_of(1)[:40_000]
    point = scene.backup("job", disk)
    with tempfile.TemporaryDirectory() as parent:
        copy = Path(parent) / "vault"
        shutil.copytree(scene.folder, copy)
        (path,) = copy.glob(kind)
        sound = path.read_bytes()
        at = int(place * len(sound))
        path.write_bytes(sound[:at] + junk + (sound[at + len(junk) :] if keep else b""))
        restored, code = b"", ""
        try:
            there = scene.reopened(LocalStore(copy))
            there.vault.verify("chunks")
            restored = there.restore(point)
        except Failure as failure:
            code = failure.code
        assert restored == disk or code.startswith(("vault.", "auth."))
