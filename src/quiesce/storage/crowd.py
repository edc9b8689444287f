"""Who is connected to the endpoint, and who has to go when no more fit in.

A guest may hold many connections under many addresses, and keep them without saying anything. So
when all places are taken, whoever has most of them loses the oldest on which nothing is being done
that a signature allows. A guest's one connection, open for its snapshot command, is safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class Crowd:
    """For one event loop."""

    def __init__(self, *, places: int, places_of_one_peer: int) -> None:
        self._places = places
        self._places_of_one_peer = places_of_one_peer
        self._peers: Counter[str] = Counter()
        self._idle: dict[Visit, None] = {}  # the longest idle first

    def enter(self, peer: str, drop: Callable[[], None]) -> Visit | None:
        """A place for one connection of `peer`, None when it gets none. `drop` ends the connection:
        it is called when somebody else gets its place."""
        if self._peers[peer] >= self._places_of_one_peer:
            return None
        if self._peers.total() >= self._places and not self._make_room():
            return None
        visit = Visit(self, peer, drop)
        self._peers[peer] += 1
        self._idle[visit] = None
        return visit

    def _make_room(self) -> bool:
        if not self._idle:
            return False
        goes = max(self._idle, key=lambda visit: self._peers[visit.peer])
        goes.left()
        goes.drop()
        return True


class Visit:
    """One connection's place."""

    def __init__(self, crowd: Crowd, peer: str, drop: Callable[[], None]) -> None:
        self._crowd = crowd
        self.peer = peer
        self.drop = drop
        self._ended = False

    def let_in(self) -> None:
        """A request came that is allowed: it is not dropped before its answer."""
        self._crowd._idle.pop(self, None)

    def answered(self) -> None:
        if not self._ended:
            self._crowd._idle.setdefault(self)

    def left(self) -> None:
        """Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._crowd._idle.pop(self, None)
        peers = self._crowd._peers
        peers[self.peer] -= 1
        if not peers[self.peer]:
            del peers[self.peer]
