"""Removing what is ours, each file by its name, and the folders only when that leaves them empty.

A guest may run a Quiesce server of its own: /var/lib/quiesce then holds its vault.
"""

import os
from typing import Callable, List

from . import attempts, log
from .folder import RUN_FOLDER, Folder, active_lock, already_active, remove_if_empty, tasks
from .recover import recover

INSTALL_FOLDER = "/var/lib/quiesce"
_PATIENCE_SECONDS = 30.0


def uninstall() -> List[str]:
    """End all sessions, remove everything of ours; returns the paths that were removed.

    :raise Failure: session.active when a session cannot be ended, or begins meanwhile
    """
    attempts.end(log.Log("uninstall"), _PATIENCE_SECONDS)
    for task in tasks():
        recover(Folder(task), log.Log("uninstall"))
    if os.path.isdir(RUN_FOLDER):
        active = active_lock()
        if not active.take():
            raise already_active()
    return remove_traces() + _remove(INSTALL_FOLDER, _is_package)


def remove_traces() -> List[str]:
    """What sessions and attempts leave: the locks and the log. Returns the paths."""
    removed = _remove(RUN_FOLDER, lambda name: name in ("active", "driver"))
    return removed + _remove(log.LOG_FOLDER, lambda name: name in log.FILES)


def _is_package(name: str) -> bool:
    """The zip, or one that was being written when the guest went down."""
    return name.startswith(("quiesce-extension-", ".quiesce-extension-")) and ".zip" in name


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _remove(folder: str, is_ours: Callable[[str], bool]) -> List[str]:
    removed = []
    for name in sorted(os.listdir(folder)) if _is_folder(folder) else []:
        path = os.path.join(folder, name)
        if is_ours(name) and not os.path.isdir(path):
            os.unlink(path)
            removed.append(path)
    return removed + [folder] * remove_if_empty(folder)
