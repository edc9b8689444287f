"""What every command pays before it begins."""

from __future__ import annotations

import os
import subprocess
import sys

_LOADED = """
import os
import sys
import quiesce.vault
print(len(os.listdir("/proc/self/task")), "quiesce.model.job" in sys.modules)
"""


def test_loading_the_vault_starts_no_threads_and_loads_no_jobs() -> None:
    environment = {key: value for key, value in os.environ.items() if "OPENBLAS" not in key}
    said = subprocess.run(
        [sys.executable, "-c", _LOADED], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["1", "False"]
