"""The host: its load, its free space, and its own storage endpoint."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from paper_case import case, values

from quiesce.model.door import Endpoint
from quiesce.model.failure import AgentFailure
from quiesce.model.vm import AgentKind
from quiesce.service.looks.host import HostLook, shake_hands
from quiesce.service.looks.panel import Found
from quiesce.service.settings import Settings
from quiesce.storage.endpoint import StorageEndpoint


class PaperGuestSide:
    def __init__(self, problem: AgentFailure | None = None) -> None:
        self._problem = problem
        self.endpoint = Endpoint("https://192.0.2.1:443", "pem")

    def storage(self) -> PaperGuestSide:
        if self._problem:
            raise self._problem
        return self


def looked(
    folder: Path,
    *,
    agent: AgentKind = AgentKind.BOTH,
    problem: AgentFailure | None = None,
    refused: OSError | None = None,
) -> tuple[Found, list[str]]:
    dialled: list[str] = []

    def dial(bind: str, _: Endpoint) -> None:
        dialled.append(bind)
        if refused:
            raise refused

    settings = Settings(data_folder=folder, agent_address="192.0.2.1")
    look = HostLook(settings, PaperGuestSide(problem), dial)  # type: ignore[arg-type]
    return look(case(agent), Found()), dialled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("scratch", "vault"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_load_and_space_are_told_and_the_endpoint_is_dialled(folder: Path) -> None:
    found, dialled = looked(folder)
    facts = values(found)
    assert dialled == ["192.0.2.1"]
    assert facts["net.endpoint-up"] is True
    for name in ("host.scratch-free-percent", "host.vault-free-percent"):
        assert 0.0 <= float(str(facts[name])) <= 100.0
    assert {"host.load-percent", "host.scratch-free-bytes", "host.vault-free-bytes"} <= set(facts)


def test_an_endpoint_that_does_not_answer_is_told_with_the_systems_words(folder: Path) -> None:
    found, _ = looked(folder, refused=ConnectionRefusedError(111, "Connection refused"))
    [fact] = [fact for fact in found.facts if fact.name == "net.endpoint-up"]
    assert fact.value is False
    assert "Connection refused" in fact.raw


def test_an_endpoint_that_could_not_be_made_is_down(folder: Path) -> None:
    problem = AgentFailure("storage.endpoint-bind-failed", "Somebody listens there.")
    found, dialled = looked(folder, problem=problem)
    [fact] = [fact for fact in found.facts if fact.name == "net.endpoint-up"]
    assert (fact.value, fact.raw, dialled) == (False, "storage.endpoint-bind-failed", [])


def test_a_vm_that_needs_no_endpoint_is_not_looked_at_through_it(folder: Path) -> None:
    found, dialled = looked(folder, agent=AgentKind.QGA)
    assert "net.endpoint-up" not in values(found)
    assert dialled == []


def test_a_folder_that_is_not_made_yet_has_no_figure(tmp_path: Path) -> None:
    assert set(values(looked(tmp_path, agent=AgentKind.QGA)[0])) == {"host.load-percent"}


def test_the_real_endpoint_is_met_and_another_ones_certificate_is_refused(tmp_path: Path) -> None:
    endpoint = StorageEndpoint(tmp_path / "s", address="127.0.0.1", port=0, host="127.0.0.1")
    other = StorageEndpoint(tmp_path / "o", address="127.0.0.1", port=0, host="127.0.0.1")
    endpoint.start()
    try:
        shake_hands("127.0.0.1", endpoint.endpoint)
        shake_hands("0.0.0.0", endpoint.endpoint)
        with pytest.raises(ssl.SSLError):
            shake_hands("127.0.0.1", Endpoint(endpoint.endpoint.url, other.endpoint.ca_pem))
    finally:
        endpoint.close()
    with pytest.raises(OSError, match="refused"):
        shake_hands("127.0.0.1", endpoint.endpoint)
