"""A server whose vault lies in the cloud: nothing else about it is different."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_scene import Place, place_in
from cloud_servers import Cloud, azure_cloud
from paper_machine import FakeClock, PaperMachine, ended
from paper_vm import PaperComposition

from quiesce.model.failure import Failure
from quiesce.model.vm import VmAddress
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service
from quiesce.service.settings import Settings, load_settings


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with azure_cloud(tmp_path_factory.mktemp("azure")) as cloud:
        yield cloud


@pytest.fixture
def place(azure: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return place_in(azure, tmp_path, monkeypatch)


@pytest.fixture
def settings(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("QUIESCE_VAULT", place.address)
    monkeypatch.setenv("QUIESCE_CONFIG", str(tmp_path / "none.toml"))
    return load_settings(data_folder=tmp_path / "data", port=0)


def started(settings: Settings) -> Service:
    return Service(settings, composition=PaperComposition(settings), clock=FakeClock())


def test_a_vm_is_backed_up_to_azure_and_restored_by_the_next_server(
    settings: Settings, place: Place, tmp_path: Path
) -> None:
    machine = PaperMachine(tmp_path / "vm")
    service = started(settings)
    service.vms.add(VmAddress("web", machine.folder))
    point = ended(service, service.jobs.start_backup("web")).point_id
    service.close()

    service = started(settings)
    assert service.points.vault_view().location == place.address
    target = tmp_path / "vda.img"
    ended(service, service.jobs.start_restore(RestoreRequest(point, target)))
    service.close()
    assert target.read_bytes() == machine.content
    assert list(settings.index_cache.iterdir())
    assert not (settings.data_folder / "vault").exists()


def test_a_server_whose_container_is_gone_does_not_start_with_an_empty_vault(
    settings: Settings, place: Place, azure: Cloud
) -> None:
    started(settings).close()
    azure.remove_bucket(place.address.split("/")[2])
    with pytest.raises(Failure) as refused:
        started(settings)
    assert refused.value.code == "storage.vanished"


def test_a_server_without_credentials_says_what_to_give_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    with pytest.raises(Failure, match="credentials") as refused:
        started(settings)
    assert refused.value.code == "storage.credentials-missing"
    assert not settings.vault_key_file.exists()


def test_a_wrong_key_is_refused_and_not_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "d3Jvbmcga2V5IG9mIGFuIGFjY291bnQ=")
    with pytest.raises(Failure) as refused:
        started(settings)
    assert refused.value.code == "storage.credentials-refused"
    assert "d3Jvbmcga2V5" not in repr(refused.value.report())
