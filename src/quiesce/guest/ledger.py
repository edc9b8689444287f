"""What was frozen and thawed when: memory shared by session and watchdog, and left for recovery.

A file on tmpfs in the session's folder, mapped by both processes. Every byte has one writer, so
no lock is needed and a stopped process cannot block the other. Times are CLOCK_MONOTONIC seconds.

    header   0  u8  closed: why no further freeze may begin (By), 0 while open
             8  f64 deadline, 0 before it is armed
    records from 64, one per mount in freeze order, 64 bytes each
             0  u8  Phase    written by the freezing session
             4  i32 errno of the freeze call
             8  f64 freeze call began
            16  f64 freeze call ended
            32  u8  Thaw     written by the thawing process
            36  i32 errno of the last failed thaw call
            40  f64 thaw call ended
"""

import enum
import mmap
import os
import struct
from typing import List

_HEADER = 64
_RECORD = 64


class Phase(enum.IntEnum):
    UNTOUCHED = 0
    FREEZING = 1
    """The call may be in the kernel right now, and may succeed late."""
    FROZEN = 2
    REFUSED = 3
    """The call failed: this file system is not frozen by us."""


class Thaw(enum.IntEnum):
    NOT_YET = 0
    DONE = 1
    WAS_NOT_FROZEN = 2
    """Somebody else had thawed it."""


class By(enum.IntEnum):
    """Who ended the freeze."""

    NOBODY = 0
    REQUEST = 1
    WATCHDOG = 2
    ABORT = 3
    SIGNAL = 4

    @property
    def word(self) -> str:
        return self.name.lower()


class Ledger:
    """:raise OSError: the file cannot be made or mapped"""

    def __init__(self, path: str, count: int, create: bool = False) -> None:
        self.count = count
        size = _HEADER + _RECORD * count
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
        try:
            if create:
                os.write(fd, b"\0" * size)  # every page is allocated now: no SIGBUS later
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)

    @staticmethod
    def count_in(path: str) -> int:
        return max(0, (os.stat(path).st_size - _HEADER) // _RECORD)

    @property
    def closed_by(self) -> By:
        return By(self._map[0])

    def close(self, by: By) -> None:
        """From now on no freeze may begin; the first reason stays."""
        if self._map[0] == By.NOBODY:
            self._map[0] = by

    @property
    def deadline(self) -> float:
        return self._float(8)

    def arm(self, deadline: float) -> None:
        struct.pack_into("=d", self._map, 8, deadline)

    def began(self, index: int, now: float) -> None:
        struct.pack_into("=d", self._map, self._at(index) + 8, now)
        self._map[self._at(index)] = Phase.FREEZING

    def ended(self, index: int, now: float, error: int) -> None:
        struct.pack_into("=d", self._map, self._at(index) + 16, now)
        struct.pack_into("=i", self._map, self._at(index) + 4, error)
        self._map[self._at(index)] = Phase.REFUSED if error else Phase.FROZEN

    def thawed(self, index: int, now: float, outcome: Thaw) -> None:
        struct.pack_into("=d", self._map, self._at(index) + 40, now)
        self._map[self._at(index) + 32] = outcome

    def thaw_failed(self, index: int, error: int) -> None:
        struct.pack_into("=i", self._map, self._at(index) + 36, error)

    def phase(self, index: int) -> Phase:
        return Phase(self._map[self._at(index)])

    def thaw(self, index: int) -> Thaw:
        return Thaw(self._map[self._at(index) + 32])

    def freeze_error(self, index: int) -> int:
        return int(struct.unpack_from("=i", self._map, self._at(index) + 4)[0])

    def thaw_error(self, index: int) -> int:
        return int(struct.unpack_from("=i", self._map, self._at(index) + 36)[0])

    def freeze_began(self, index: int) -> float:
        return self._float(self._at(index) + 8)

    def freeze_ended(self, index: int) -> float:
        return self._float(self._at(index) + 16)

    def thaw_ended(self, index: int) -> float:
        return self._float(self._at(index) + 40)

    def owed(self) -> List[int]:
        """The mounts that we froze, or may be freezing, and that are not thawed yet."""
        return [
            index
            for index in range(self.count)
            if self.phase(index) in (Phase.FREEZING, Phase.FROZEN)
            and self.thaw(index) is Thaw.NOT_YET
        ]

    def held(self) -> bool:
        """Whether every mount was frozen by us, and still was when the thaw was asked for."""
        return self.closed_by is By.REQUEST and all(
            self.phase(index) is Phase.FROZEN and self.thaw(index) is Thaw.DONE
            for index in range(self.count)
        )

    @staticmethod
    def _at(index: int) -> int:
        return _HEADER + _RECORD * index

    def _float(self, at: int) -> float:
        return float(struct.unpack_from("=d", self._map, at)[0])
