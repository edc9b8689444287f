"""The shell scripts that travel with this package: what looks at a guest, and what mends it, must
work without Python too, so it is written once, for a shell."""

import os
import subprocess
from typing import List

from .failure import Fact, Failure

_source = globals()["__loader__"].get_data  # of a zip or of a folder
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def run(names: str, arguments: List[str], seconds: float) -> "subprocess.CompletedProcess[bytes]":
    """Scripts, named with blanks between them, as one.

    :raise Failure: extension.crashed, when there is no shell or it hangs"""
    try:
        return subprocess.run(
            ["sh", "-s"] + arguments,
            input=b"".join(_source(os.path.join(_FOLDER, name)) for name in names.split()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(
            "extension.crashed",
            "The script {} did not run to its end in the guest.".format(names),
            [Fact("sh -s " + " ".join(arguments), "guest", str(error))],
            retryable=True,
        ) from error
