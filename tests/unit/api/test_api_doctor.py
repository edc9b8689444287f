"""Examinations, mends and log bundles over the REST API, of a VM that nobody answers for."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from quiesce.api.app import create_app
from quiesce.api.security import Trusted
from quiesce.service.service import Service
from quiesce.service.settings import Settings

API = "/api/v1"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder: Path = tmp_path_factory.mktemp("doctor")
    service = Service(Settings(data_folder=folder / "data"))
    client = TestClient(Trusted(create_app(service)), raise_server_exceptions=False)
    vm = {"name": "dead 1", "qmp_socket": "/none.qmp", "qga_socket": "/nowhere/none.qga"}
    assert client.post(f"{API}/vms", json=vm).status_code == HTTPStatus.CREATED
    yield client
    service.close()


def test_a_vm_that_does_not_answer_is_an_examination_and_no_error(calls: httpx.Client) -> None:
    answer = calls.post(f"{API}/vms/dead 1/examination")
    assert answer.status_code == HTTPStatus.OK
    found = answer.json()
    assert found["subject"] == "dead 1"
    assert found["light"] in ("red", "unknown")
    assert set(found) == {
        *("subject", "light", "checks", "diagnoses", "plan", "channels", "problems", "seconds")
    }


def test_a_log_bundle_comes_even_when_the_guest_cannot_be_reached(calls: httpx.Client) -> None:
    answer = calls.post(f"{API}/vms/dead 1/logs")
    assert answer.status_code == HTTPStatus.OK
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["quiesce-files"] == "0"
    assert "quiesce-logs-dead_1-" in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        (name,) = [each for each in archive.getnames() if each.endswith("examination.json")]
        file = archive.extractfile(name)
        assert file is not None
        assert json.load(file)["subject"] == "dead 1"


@pytest.mark.parametrize(
    ("call", "body", "status", "code"),
    [
        ("mends", {"actions": []}, 422, "input.invalid"),
        ("mends", {"actions": ["reboot"]}, 422, "input.invalid"),
        ("mends", {"actions": ["wait"], "force": True}, 422, "input.invalid"),
        ("mends", {}, 422, "input.invalid"),
        ("mends", {"actions": ["auto-restart"]}, 409, "policy.mend-not-planned"),
        ("logs?verbose=perhaps", None, 422, "input.invalid"),
        ("logs?verbose=true", None, 502, "agent.mend-failed"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_done(
    calls: httpx.Client, call: str, body: object, status: int, code: str
) -> None:
    answer = calls.post(f"{API}/vms/dead 1/{call}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("call", ["examination", "logs"])
def test_an_unknown_vm_has_no_examination_and_no_logs(calls: httpx.Client, call: str) -> None:
    answer = calls.post(f"{API}/vms/nobody/{call}")
    assert (answer.status_code, answer.json()["code"]) == (404, "vm.unknown")


@pytest.mark.parametrize("call", ["examination", "mends", "logs"])
def test_over_tcp_a_token_is_needed(tcp: httpx.Client, call: str) -> None:
    answer = tcp.post(f"{API}/vms/web/{call}", json={"actions": ["wait"]})
    assert answer.status_code == HTTPStatus.UNAUTHORIZED


def test_a_policy_keeps_what_must_not_be_mended(calls: httpx.Client) -> None:
    body = {"name": "careful", "mends_off": ["restart-agent", "skip-mount", "restart-agent"]}
    made = calls.post(f"{API}/policies", json=body).json()
    assert made["mends_off"] == ["restart-agent", "skip-mount"]
    assert calls.get(f"{API}/policies/careful").json() == made
    cleared = calls.put(f"{API}/policies/careful", json={}).json()
    assert cleared["mends_off"] == []
    wrong = calls.put(f"{API}/policies/careful", json={"mends_off": ["everything"]})
    assert wrong.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
