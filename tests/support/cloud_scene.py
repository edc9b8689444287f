"""The clouds of a test run, each started when first asked for; and a place in one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cloud_servers import Cloud, azure_cloud, google_cloud, s3_cloud

from quiesce.vault.places import create_store, open_store
from quiesce.vault.stores.store import Store

STARTERS = {"s3": s3_cloud, "az": azure_cloud, "gs": google_cloud}
CLOUDS = tuple(STARTERS)
OF_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR", "HTTP_PROXY", "HTTPS_PROXY", "http")


class Clouds:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, Cloud] = {}
        self._ends = contextlib.ExitStack()

    def get(self, name: str) -> Cloud:
        if name not in self._started:
            folder = self._folder / name
            folder.mkdir()
            self._started[name] = self._ends.enter_context(STARTERS[name](folder))
        return self._started[name]

    def close(self) -> None:
        self._ends.close()


@dataclass
class Place:
    """Where a test keeps a vault. `cloud` is None for a folder."""

    address: str
    cache: Path
    cloud: Cloud | None = None

    def create(self) -> Store:
        return create_store(self.address, cache_folder=self.cache)

    def open(self) -> Store:
        return open_store(self.address, cache_folder=self.cache)


def place_in(cloud: Cloud, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A new bucket, with an environment that knows this cloud and nothing else."""
    forget_clouds(folder, monkeypatch)
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    cloud.way.rules.clear()
    cloud.way.seen.clear()
    cloud.way.ahead = timedelta()
    address = f"{cloud.scheme}://{cloud.new_bucket()}/vaults/one"
    return Place(address, folder / "cache", cloud)


def forget_clouds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on this machine says who opens a store."""
    for name in list(os.environ):
        if name.startswith(OF_CLOUDS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    # Else a machine's role is looked for, at an address that does not answer.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def clouds_of_run(folder: Path) -> Iterator[Clouds]:
    clouds = Clouds(folder)
    yield clouds
    clouds.close()
