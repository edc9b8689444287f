from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from quiesce.api.app import create_app
from quiesce.api.security import Trusted
from quiesce.service.service import Service
from quiesce.service.settings import Settings


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("api")
    service = Service(Settings(data_folder=folder / "data"))
    yield service
    service.close()


@pytest.fixture
def tcp(service: Service) -> httpx.Client:
    """A caller over TCP, without a token."""
    return TestClient(create_app(service), raise_server_exceptions=False)


@pytest.fixture
def local(service: Service) -> httpx.Client:
    """A caller over the unix socket."""
    return TestClient(Trusted(create_app(service)), raise_server_exceptions=False)
