"""All readers, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quiesce.diagnosis.reading.configuration import configuration_facts
from quiesce.diagnosis.reading.extension import extension_facts
from quiesce.diagnosis.reading.machine import machine_facts
from quiesce.diagnosis.reading.mounts import mount_facts
from quiesce.diagnosis.reading.network import network_facts
from quiesce.diagnosis.reading.services import service_facts
from quiesce.diagnosis.reading.waagent_log import waagent_log_facts
from quiesce.diagnosis.reading.windows import is_windows, windows_facts
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Papers

_READERS: tuple[Callable[[Papers], Iterable[Fact]], ...] = (
    service_facts,
    configuration_facts,
    waagent_log_facts,
    extension_facts,
    machine_facts,
    mount_facts,
    network_facts,
)


def facts_of(papers: Papers) -> tuple[Fact, ...]:
    """What the papers show, and nothing else: an absent paper is no fact. Each fact has the raw
    line it was read from and its time: that of the line, else that of the collection."""
    readers = (windows_facts,) if is_windows(papers) else _READERS
    return tuple(fact for read in readers for fact in read(papers))
