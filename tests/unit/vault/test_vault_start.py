"""Each command and each job of its own process opens a vault: what that loads is waited for."""

from __future__ import annotations

import subprocess
import sys

SLOW = ("structlog", "obstore", "sqlalchemy", "pydantic", "rich", "asyncio")


def test_a_vault_in_a_folder_is_opened_without_libraries_that_take_their_time():
    asked = f"import quiesce.vault, sys; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
