"""Whether a copy lies apart from what it is a copy of."""

from __future__ import annotations

from pathlib import Path

from quiesce.model.failure import Evidence, PolicyFailure
from quiesce.vault.stores.nowhere import nearest_folder
from quiesce.vault.stores.store import Store


def refuse_within(source: Store, target: Store) -> None:
    """:raise PolicyFailure: vault.copy-onto-itself, for folders one of which is in the other"""
    here, there = _folder(source), _folder(target)
    if here is None or there is None:
        return
    if here in there.parents or there in here.parents:
        raise PolicyFailure(
            "vault.copy-onto-itself",
            f"{source.address} and {target.address} lie within each other.",
            evidence=[Evidence("what happens to the outer folder happens to both", str(there))],
        )


def same_disk(source: Store, target: Store) -> tuple[str, ...]:
    """What is to be said of two folders on one file system."""
    here, there = _folder(source), _folder(target)
    if here is None or there is None:
        return ()
    try:
        same = nearest_folder(here).stat().st_dev == nearest_folder(there).stat().st_dev
    except OSError:
        return ()
    if not same:
        return ()
    return ("Vault and copy lie on the same file system: the disk that breaks takes both.",)


def _folder(store: Store) -> Path | None:
    return Path(store.address).resolve() if store.address.startswith("/") else None
