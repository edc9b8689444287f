"""Writing to a pipe whose reader may go away, as `head` does.

Nobody is left to be told anything then. The work goes on, and the exit code says how it ended:
without this every library that prints would end the process in a way of its own.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Pipe(io.FileIO):
    _gone = False

    def write(self, data: ReadableBuffer, /) -> int:
        if not self._gone:
            try:
                return super().write(data)
            except BrokenPipeError:
                self._gone = True
        return memoryview(data).nbytes


def outlasting(stream: TextIO) -> TextIO:
    """What writes where `stream` does, and goes on silently when nobody reads there any more. Such
    that are no files of this process, as tests have, are left as they are."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if not isinstance(stream.buffer, io.BufferedWriter | io.FileIO):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
