"""Why a connection could not be made: what the guest itself lacks is not blamed on a firewall."""

from __future__ import annotations

import errno
import socket
import time

import pytest

from quiesce.guest import addresses, dial
from quiesce.guest.failure import Failure

THERE = dial.Address(socket.AF_INET, ("192.0.2.1", 443))


class Unreachable(socket.socket):
    """Every connection ends with "no route to host", far away or near."""

    def connect(self, target: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")


def code_of_connecting() -> str:
    with pytest.raises(Failure) as caught:
        dial.connect([THERE], time.monotonic() + 5, None)
    return caught.value.code


def test_a_firewall_that_prohibits_is_told_from_a_route_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_route(address: str) -> str:
        raise Failure("network.no-route", "no route")

    monkeypatch.setattr(dial.socket, "socket", Unreachable)
    monkeypatch.setattr(addresses, "source_for", lambda address: "192.0.2.7")
    assert code_of_connecting() == "network.rejected"
    monkeypatch.setattr(addresses, "source_for", no_route)
    assert code_of_connecting() == "network.no-route"
