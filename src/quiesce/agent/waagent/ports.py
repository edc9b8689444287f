"""What the host side of the Azure Linux agent needs from the service and from the storage room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quiesce.model.door import Door, Endpoint
from quiesce.model.network import Proxy


class Doors(Protocol):
    """The storage endpoint as seen by whoever sends guests there. Thread-safe."""

    @property
    def endpoint(self) -> Endpoint: ...

    def open(
        self,
        vm: str,
        attempt: str,
        disks: Sequence[str],
        *,
        take: Callable[[], datetime],
        reported: Callable[[bytes], None],
    ) -> Door:
        """Let the guest of `vm` take one point. `take` is called at most once whatever the guest
        repeats; `reported` gets each content written to the report blob (at most 128 KiB)."""

    def close(self, attempt: str) -> None:
        """From the return on, `take` is not called any more, not even by a request that is being
        served: it is waited for. Idempotent; unknown attempts are none of its business."""

    def status_url(self, vm: str) -> str:
        """Where the agent of `vm` uploads its status when the host plugin does not answer: a SAS
        URL of a block blob, valid for a day or more, the same for some hours."""

    def status_of(self, vm: str) -> tuple[bytes, datetime] | None:
        """What was last written there, and when."""


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What must outlive the server, of one VM's agent. Opaque text fields are the waagent
    package's own (JSON, PEM); private keys are in it: to be stored closed to others."""

    vm: str
    body: str
    seen_at: datetime | None = None


class AgentBook(Protocol):
    """Where records are kept. Thread-safe."""

    def load(self, vm: str) -> AgentRecord | None: ...

    def save(self, record: AgentRecord) -> None: ...

    def forget(self, vm: str) -> None: ...

    def package_build(self, digest: str) -> int:
        """A number for an extension package, greater than those of all that came before it on
        this server: the same digest has the same number, forever. From 1."""


class Neighbourhood(Protocol):
    """Which VM is at the other end of a connection, by what a guest cannot forge."""

    def vm_at(self, address: str, port: int) -> str | None:
        """The name of the VM that this peer is, None for strangers. Quick: it is asked for every
        connection. Never raises."""


class ProxyOf(Protocol):
    def __call__(self, vm: str) -> Proxy: ...
