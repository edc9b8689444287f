"""Handing the report of an attempt over at the storage endpoint."""

import time
from typing import Optional

from .dial import Way
from .endpoint import Answer, Connection, prepare, require_success
from .failure import Failure
from .handler_settings import Order
from .log import Log
from .report import Report

_LOG_SECONDS, _REPORT_SECONDS = 5.0, 20.0


def deliver(
    order: Order, report: Report, way: Optional[Way], connection: Optional[Connection], log: Log
) -> Optional[Failure]:
    """The attempt's log and its report; returns why the report could not be delivered. The log
    goes first: with the report the server has what it wants, and closes the door."""
    if way is None:
        return Failure("extension.settings-invalid", "The server named no storage endpoint.")
    open_to = connection or Connection(way)
    blobs = (
        (order.log_url, log.of_task(), "text/plain", _LOG_SECONDS),
        (order.report_url, report.as_blob(), "application/json", _REPORT_SECONDS),
    )
    failure: Optional[Failure] = None
    for url, content, kind, seconds in blobs:
        failure = _put(way, open_to, url, content, kind, seconds)
        if failure is not None:
            log.say("not handed over: {} [{}]".format(failure, failure.code))
    open_to.close()
    return failure


def _put(
    way: Way, connection: Connection, url: str, content: bytes, kind: str, seconds: float
) -> Optional[Failure]:
    """A block blob, as well as it goes."""
    if not url:
        return Failure("extension.settings-invalid", "The server named no place for it.")
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": kind}
    try:
        request = prepare(way, "PUT", url, headers, content)
        require_success(ask(connection, request, seconds), way)
    except Failure as failure:
        return failure
    return None


def ask(connection: Connection, request: bytes, seconds: float) -> Answer:
    """On the connection that stands, or on a new one. :raise Failure:"""
    until = time.monotonic() + seconds
    if connection.stands():
        try:
            return connection.exchange(request, until)
        except Failure as failure:
            if failure.code != "network.connection-lost":
                raise
    connection.open(until)
    return connection.exchange(request, until)
