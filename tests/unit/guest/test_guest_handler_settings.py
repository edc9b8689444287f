"""What the handler reads from the files that the Azure Linux agent lays down."""

from __future__ import annotations

import calendar
import json
import os
from pathlib import Path
from typing import Any

import pytest
from waagent_folder import HandlerFolder

from quiesce.guest.failure import Failure
from quiesce.guest.handler_settings import Order, newest_sequence, read_environment, read_order

PUBLIC = {
    "command": "snapshot",
    "task": "task-1",
    "attempt": "attempt-1",
    "hold_seconds": 10,
    "skip_mounts": ["/data"],
    "deadline": "2026-01-31T23:59:59Z",
    "endpoint": {"url": "https://storage.example", "ca_pem": "PEM"},
}
PROTECTED = {
    "snapshot_urls": {"vda": "https://storage.example/vda?sig=SECRET"},
    "report_url": "https://storage.example/report?sig=SECRET",
    "log_url": "https://storage.example/log?sig=SECRET",
    "proxy": {"http": "", "https": "http://u:SECRET@proxy:3128", "no_proxy": "10.0.0.0/8"},
}


@pytest.fixture
def folder(tmp_path: Path) -> HandlerFolder:
    return HandlerFolder(tmp_path)


def order_of(folder: HandlerFolder, sequence: str = "1") -> Order:
    return read_order(read_environment(str(folder.base)), sequence)


def test_an_order_is_read_and_its_secrets_decrypted_with_the_vms_own_key(
    folder: HandlerFolder,
) -> None:
    folder.settings(1, PUBLIC, PROTECTED)
    order = order_of(folder)
    assert order.secret_failure is None
    assert (order.command, order.task, order.attempt) == ("snapshot", "task-1", "attempt-1")
    assert (order.hold_seconds, order.skip_mounts) == (10.0, ("/data",))
    assert order.deadline == calendar.timegm((2026, 1, 31, 23, 59, 59))
    assert order.snapshot_urls == PROTECTED["snapshot_urls"]
    assert order.proxy is not None
    assert order.proxy.no_proxy == "10.0.0.0/8"


def test_the_settings_that_the_agent_names_are_taken(folder: HandlerFolder) -> None:
    environment = read_environment(str(folder.base))
    assert newest_sequence(environment, {}) is None
    for sequence in (9, 10, 3):
        folder.settings(sequence, PUBLIC)
        os.utime(folder.config / f"{sequence}.settings", (100 - sequence, 100 - sequence))
    assert newest_sequence(environment, {"ConfigSequenceNumber": "10"}) == "10"
    assert newest_sequence(environment, {}) == "3", "the last one written, as the agent has it"
    assert newest_sequence(environment, {"ConfigSequenceNumber": "../../x"}) == "3"
    assert newest_sequence(environment, {"ConfigSequenceNumber": "77"}) == "3"


def test_a_lost_key_leaves_an_order_that_says_so(folder: HandlerFolder) -> None:
    folder.settings(1, PUBLIC, PROTECTED)
    for key in folder.agent_folder.glob("*.prv"):
        key.unlink()
    order = order_of(folder)
    assert order.attempt == "attempt-1"
    assert order.secret_failure is not None
    assert order.secret_failure.code == "extension.settings-unreadable"


def test_a_guest_without_openssl_says_so(
    folder: HandlerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.settings(1, PUBLIC, PROTECTED)
    monkeypatch.setenv("PATH", "/nowhere")
    failure = order_of(folder).secret_failure
    assert failure is not None
    assert failure.code == "extension.runtime-missing"
    assert "openssl" in failure.message


def test_secrets_are_in_no_argument_of_a_process(
    folder: HandlerFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = tmp_path / "arguments"
    spy = tmp_path / "bin" / "openssl"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\necho "$@" >> {said}\nexec /usr/bin/openssl "$@"\n')
    spy.chmod(0o755)
    folder.settings(1, PUBLIC, PROTECTED)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    assert order_of(folder).secret_failure is None
    assert "cms -decrypt" in said.read_text()
    assert "SECRET" not in said.read_text()


def test_the_agents_empty_settings_mean_that_there_is_nothing_to_do(folder: HandlerFolder) -> None:
    (folder.config / "0.settings").write_text("")
    assert order_of(folder, "0").command == "idle"


def test_a_thumbprint_cannot_lead_out_of_the_agents_folder(folder: HandlerFolder) -> None:
    folder.settings(1, PUBLIC, PROTECTED)
    path = folder.config / "1.settings"
    found = json.loads(path.read_text())
    found["runtimeSettings"][0]["handlerSettings"]["protectedSettingsCertThumbprint"] = "../../x"
    path.write_text(json.dumps(found))
    failure = order_of(folder).secret_failure
    assert failure is not None
    assert failure.code == "extension.settings-invalid"


@pytest.mark.parametrize(
    "change",
    [
        {"command": "dance"},
        {"command": None},
        {"deadline": "tomorrow"},
        {"deadline": 5},
        {"hold_seconds": "ten"},
        {"skip_mounts": "/"},
        {"endpoint": "https://x"},
        {"endpoint": {"url": 5}},
        {"attempt": {}},
    ],
)
def test_settings_that_are_not_understood_are_refused(
    folder: HandlerFolder, change: dict[str, Any]
) -> None:
    folder.settings(1, {**PUBLIC, **change}, PROTECTED)
    with pytest.raises(Failure) as caught:
        order_of(folder)
    assert caught.value.code == "extension.settings-invalid"


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimeSettings": []}', '{"runtimeSettings": 5}'])
def test_a_broken_settings_file_is_refused(folder: HandlerFolder, text: str) -> None:
    (folder.config / "1.settings").write_text(text)
    with pytest.raises(Failure) as caught:
        order_of(folder)
    assert caught.value.code == "extension.settings-invalid"


@pytest.mark.parametrize("protected", [[], {"snapshot_urls": []}, {"snapshot_urls": {"a": 5}}, {}])
def test_protected_settings_of_a_wrong_shape_are_said(
    folder: HandlerFolder, protected: object
) -> None:
    folder.settings(1, PUBLIC, protected)
    failure = order_of(folder).secret_failure
    assert failure is not None
    assert failure.code == "extension.settings-invalid"


def test_a_folder_that_the_agent_has_not_prepared_is_said(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        read_environment(str(tmp_path))
    assert caught.value.code == "extension.settings-invalid"
