"""The REST API as a caller sees it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from http import HTTPStatus

import httpx
import pytest
import structlog
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from quiesce.api.app import create_app
from quiesce.api.security import Trusted
from quiesce.model.failure import NotFoundFailure
from quiesce.service.logs import configure_logs
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service

API = "/api/v1"


def test_health_needs_no_token_and_everything_else_does(tcp: httpx.Client) -> None:
    assert tcp.get(f"{API}/health").json()["status"] == "ok"

    schema = tcp.get(f"{API}/openapi.json").json()
    for path, calls in schema["paths"].items():
        if path == f"{API}/health":
            continue
        for method in calls:
            answer = tcp.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code == HTTPStatus.UNAUTHORIZED, (method, path)
            assert answer.json()["code"] == "auth.required"
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic abc", "Bearer \xfc"])
def test_a_wrong_token_is_refused(tcp: httpx.Client, header: str) -> None:
    answer = tcp.get(f"{API}/vms", headers={"Authorization": header.encode("latin-1")})  # type: ignore[dict-item]

    assert answer.status_code == HTTPStatus.UNAUTHORIZED
    assert answer.json()["code"] in ("auth.required", "auth.forbidden")


def test_the_token_opens_tcp_and_the_unix_socket_needs_none(
    tcp: httpx.Client, local: httpx.Client, service: Service
) -> None:
    token = {"Authorization": f"Bearer {service.api_token}"}

    assert tcp.get(f"{API}/vms", headers=token).status_code == HTTPStatus.OK
    assert local.get(f"{API}/vms").status_code == HTTPStatus.OK


def test_the_mark_of_the_unix_socket_cannot_be_sent_by_a_caller(tcp: httpx.Client) -> None:
    for header in ("quiesce.trusted", "x-quiesce-trusted", "x-forwarded-for"):
        answer = tcp.get(f"{API}/vms", headers={header: "True"})
        assert answer.status_code == HTTPStatus.UNAUTHORIZED


def test_a_failure_comes_as_a_problem_with_code_evidence_and_remedy(local: httpx.Client) -> None:
    answer = local.get(f"{API}/vms/nobody")

    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:quiesce:failure:vm.unknown"
    assert problem["status"] == HTTPStatus.NOT_FOUND
    assert problem["code"] == "vm.unknown"
    assert "nobody" in problem["detail"]
    assert problem["remedy"]


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("vms", {"name": "x"}, "qmp_socket"),
        ("vms", {"name": "x", "qmp_socket": "/q", "qmp": "/q"}, "qmp"),
        ("policies", {"name": "p", "at": "25:00"}, "at"),
        ("policies", {"name": "p", "keep_last": 0}, "keep_last"),
        ("policies", {"name": "p", "compression_level": 20}, "compression_level"),
        ("policies", {"name": "p", "bandwidth": -1}, "bandwidth"),
        ("policies", {"name": "p", "snapshot": {"hold_seconds": 1e9}}, "hold_seconds"),
        ("vault/verify", {"mode": "deep"}, "mode"),
        ("vms", {"name": "x", "qmp_socket": "/" + "q" * 5000}, "qmp_socket"),
    ],
)
def test_a_request_that_is_not_valid_names_the_field(
    local: httpx.Client, call: str, body: dict[str, object], field: str
) -> None:
    answer = local.post(f"{API}/{call}", json=body)

    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    problem = answer.json()
    assert problem["code"] == "input.invalid"
    assert any(field in evidence["fact"] for evidence in problem["evidence"])


@pytest.mark.parametrize("name", ["a/b", " a", "x" * 300, "", "a\u0000b"])
def test_a_bad_name_is_refused_with_its_reason(local: httpx.Client, name: str) -> None:
    answer = local.post(f"{API}/vms", json={"name": name, "qmp_socket": "/q.sock"})

    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert answer.json()["code"] == "input.name-invalid"


def test_a_vm_with_spaces_and_unicode_is_added_shown_protected_and_removed(
    local: httpx.Client,
) -> None:
    name = "Büro 1 % 日本"
    assert local.post(f"{API}/vms", json={"name": name, "qmp_socket": "/q.sock"}).is_success
    assert local.post(f"{API}/vms", json={"name": name, "qmp_socket": "/q.sock"}).status_code == 409

    shown = local.get(f"{API}/vms/{name}").json()
    assert shown["problem"]["code"] == "vm.not-found"
    protected = local.put(f"{API}/vms/{name}/protection", json={"policy": "daily"}).json()
    assert protected["policy"] == "daily"
    assert protected["next_run"]
    in_use = local.delete(f"{API}/policies/daily")
    assert (in_use.status_code, in_use.json()["code"]) == (409, "policy.in-use")
    assert local.delete(f"{API}/vms/{name}/protection").status_code == HTTPStatus.NO_CONTENT
    assert local.delete(f"{API}/vms/{name}").status_code == HTTPStatus.NO_CONTENT
    assert local.get(f"{API}/vms").json() == []


def test_a_relative_path_is_refused(local: httpx.Client) -> None:
    answer = local.post(f"{API}/vms", json={"name": "x", "qmp_socket": "q.sock"})

    assert answer.json()["code"] == "input.path-invalid"


def test_a_policy_is_made_changed_and_removed(local: httpx.Client) -> None:
    body = {"at": "02:30", "zone": "Europe/Berlin", "keep_last": 3}
    made = local.post(f"{API}/policies", json={"name": "nightly", **body})
    assert made.status_code == HTTPStatus.CREATED
    assert (made.json()["at"], made.json()["zone"]) == ("02:30", "Europe/Berlin")

    changed = local.put(f"{API}/policies/nightly", json={**body, "at": None}).json()
    assert (changed["at"], changed["keep_last"]) == (None, 3)
    unknown = local.put(f"{API}/policies/nightly", json={"zone": "Mars/Base"})
    assert unknown.json()["code"] == "input.zone-unknown"
    assert local.delete(f"{API}/policies/nightly").status_code == HTTPStatus.NO_CONTENT


@pytest.mark.parametrize("path", [f"{API}/vms", "/login"])
def test_a_huge_request_is_refused_and_not_read(local: httpx.Client, path: str) -> None:
    two_mib = b"x" * (2 * 1024 * 1024)

    for body in (two_mib, iter([two_mib])):  # with a length announced, and without
        answer = local.post(path, content=body)
        assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert answer.json()["code"] == "input.too-large"


def test_an_unknown_call_is_a_problem_too(local: httpx.Client) -> None:
    assert local.get(f"{API}/nothing").json()["code"] == "input.no-such-call"
    assert local.patch(f"{API}/vms").status_code == HTTPStatus.METHOD_NOT_ALLOWED


def test_an_unknown_call_is_a_problem_with_the_portal_mounted_behind_the_api(
    service: Service,
) -> None:
    app = create_app(service)
    app.mount("/", PlainTextResponse("a page"))
    local = TestClient(Trusted(app))

    for method, path in (("GET", f"{API}/nothing"), ("POST", "/api/x"), ("GET", "/api/v2/vms")):
        answer = local.request(method, path)
        assert answer.status_code == HTTPStatus.NOT_FOUND
        assert answer.json()["code"] == "input.no-such-call"
    other_method = local.patch(f"{API}/vms")
    assert other_method.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    assert "GET" in other_method.headers["allow"]
    assert local.get(f"{API}/vms").json() == []
    assert local.get("/other").text == "a page"


def test_no_page_that_loads_scripts_from_elsewhere_is_served(local: httpx.Client) -> None:
    for page in ("docs", "redoc"):
        assert local.get(f"{API}/{page}").status_code == HTTPStatus.NOT_FOUND


def test_a_code_is_explained(local: httpx.Client) -> None:
    assert local.get(f"{API}/failures/policy.in-progress").json()["entries"][0]["cause"]
    assert local.get(f"{API}/failures/no.such").status_code == HTTPStatus.NOT_FOUND


def test_a_defect_of_ours_is_a_problem_and_does_not_log_the_token(
    tcp: httpx.Client,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, dbos = logging.getLogger(), logging.getLogger("dbos")
    before = root.handlers, root.level, dbos.handlers
    configure_logs("debug", as_json=False)

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service.vms, "all", broken)
    answer = tcp.get(f"{API}/vms", headers={"Authorization": f"Bearer {service.api_token}"})
    root.handlers, root.level, dbos.handlers = before
    structlog.reset_defaults()

    assert answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert answer.json()["code"] == "internal.defect"
    logged = capsys.readouterr().err
    assert "ZeroDivisionError" in logged
    assert service.api_token not in logged


def test_a_report_of_damage_is_whole_also_when_there_is_none(local: httpx.Client) -> None:
    report = local.get(f"{API}/vault/damage").json()
    assert datetime.fromisoformat(report.pop("at")).utcoffset() == timedelta(0)
    assert report == {
        "looked_at": 0,
        "unseen": 0,
        "points": [],
        "hurt_bytes": 0,
        "healable_bytes": 0,
        "more_points": 0,
        "more_bytes": 0,
        "heals_known": True,
    }


def test_what_waits_in_a_vault_without_garbage_is_nothing(local: httpx.Client) -> None:
    garbage = local.get(f"{API}/vault/garbage").json()
    assert (garbage["waiting"], garbage["waiting_bytes"]) == ([], 0)
    assert (garbage["unmarked"], garbage["held_points"]) == (None, 0)


@pytest.mark.parametrize(("said", "salvage"), [({}, False), ({"salvage": True}, True)])
def test_a_restore_salvages_only_when_it_is_told_to(
    local: httpx.Client,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, bool],
    salvage: bool,
) -> None:
    asked: list[RestoreRequest] = []

    def start(request: RestoreRequest) -> None:
        asked.append(request)
        raise NotFoundFailure("restore.point-not-found", "There is none.")

    monkeypatch.setattr(service.jobs, "start_restore", start)
    answer = local.post(f"{API}/restores", json={"point": "p1", "to": "/srv/x.img", **said})
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert [request.salvage for request in asked] == [salvage]
