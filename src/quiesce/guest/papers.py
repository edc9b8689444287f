"""What `collect.sh` finds in this guest, packed so that it fits where a report goes.

`{"token", "data", "shortened"}`: `data` is what the script printed with that token, compressed
(zlib or gzip), in base64; `shortened` names the texts of which a part was dropped for it.
"""

import base64
import os
import subprocess
from typing import Any, Dict, List

from . import shell

_SECONDS = 20.0
"""The script ends itself within 16 s."""
_LEAST_BYTES = 512
"""So much is left of each text."""


class Collection:
    def __init__(self, token: str, raw: bytes) -> None:
        self._token = token
        self._raw = raw

    def packed(self, most_chars: int) -> Dict[str, Any]:
        """At most that many characters of data. The longest texts lose their older half first;
        journals and logs are what is long."""
        chunks = (b"\n" + self._raw).split(self._mark())
        shortened: List[str] = []
        while True:
            data = base64.b64encode(_compressed(self._mark().join(chunks)[1:]))
            longest = max(range(len(chunks)), key=lambda n: len(chunks[n]))
            if len(data) <= most_chars or len(chunks[longest]) <= _LEAST_BYTES:
                break
            header, _, text = chunks[longest].partition(b"\n")
            chunks[longest] = header + b"\n" + text[len(text) // 2 :]
            name = header.split(b" ", 5)[-1 if header.startswith(b"file") else 1]
            if name.decode("utf-8", "replace") not in shortened:
                shortened.append(name.decode("utf-8", "replace"))
        return {"token": self._token, "data": data.decode("ascii"), "shortened": shortened}

    def _mark(self) -> bytes:
        return b"\n#" + self._token.encode("ascii") + b" "


def collect() -> Collection:
    """:raise Failure: as `shell.run`"""
    token = os.urandom(16).hex()
    return Collection(token, shell.run("collect.sh", [token], _SECONDS).stdout)


def _compressed(raw: bytes) -> bytes:
    try:
        import zlib
    except ImportError:  # some guests' Python comes without
        return subprocess.run(["gzip", "-9c"], input=raw, stdout=subprocess.PIPE).stdout
    return zlib.compress(raw, 9)
