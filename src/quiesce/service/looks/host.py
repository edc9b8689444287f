"""The host: its load, its free space, and whether its own storage endpoint answers."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from quiesce.model.diagnosis import Fact
from quiesce.model.door import Endpoint
from quiesce.model.failure import Failure
from quiesce.model.units import size_text
from quiesce.service.guest_side import GuestSide
from quiesce.service.looks.panel import Case, Found
from quiesce.service.settings import Settings

_SOURCE = "the host"
_DIAL_SECONDS = 1.0

Dial = Callable[[str, Endpoint], None]
"""Connects to an address and shakes hands as the endpoint; raises OSError."""


class HostLook:
    def __init__(self, settings: Settings, guest_side: GuestSide, dial: Dial | None = None) -> None:
        self._settings = settings
        self._guest_side = guest_side
        self._dial = dial

    def __call__(self, case: Case, _: Found) -> Found:
        facts = [
            *_load(),
            *_space("scratch", "the scratch folder", self._settings.scratch),
        ]
        if self._settings.vault_path is not None:
            facts += _space("vault", "the vault", self._settings.vault_path)
        if case.address.agent.waagent:
            facts += self._endpoint()
        return Found(tuple(facts))

    def _endpoint(self) -> Iterator[Fact]:
        name = "net.endpoint-up"
        try:
            endpoint = self._guest_side.storage().endpoint
            (self._dial or shake_hands)(self._settings.storage_bind, endpoint)
        except Failure as failure:
            yield Fact(name, False, failure.message, _SOURCE, raw=failure.code)
        except OSError as error:
            words = "the storage endpoint does not answer on the host itself"
            yield Fact(name, False, words, _SOURCE, raw=str(error))
        else:
            words = f"the storage endpoint {endpoint.url} answers on the host itself"
            yield Fact(name, True, words, _SOURCE)


def shake_hands(bind: str, endpoint: Endpoint) -> None:
    """TCP and TLS, as far as a guest goes before it sends anything.

    :raise OSError: what stands in the way
    """
    url = urlsplit(endpoint.url)
    # An endpoint at every address is dialled at this host's own.
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    context = ssl.create_default_context(cadata=endpoint.ca_pem)
    with (
        socket.create_connection((address, url.port or 443), _DIAL_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=url.hostname),
    ):
        return


def _load() -> Iterator[Fact]:
    minute, *_ = os.getloadavg()
    processors = os.cpu_count() or 1
    words = f"{minute:.1f} tasks ran or waited in the last minute for {processors} processors"
    percent = 100.0 * minute / processors
    yield Fact("host.load-percent", percent, words, f"{_SOURCE}, load average")


def _space(name: str, what: str, folder: Path) -> Iterator[Fact]:
    try:
        seen = os.statvfs(folder)
    except OSError:  # not made yet
        return
    free, total = seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize
    percent = 100.0 * free / total if total else 0.0
    words = f"{size_text(free)} ({percent:.0f} %) are free at {what}"
    yield Fact(f"host.{name}-free-bytes", float(free), words, f"{folder}")
    yield Fact(f"host.{name}-free-percent", percent, words, f"{folder}")
