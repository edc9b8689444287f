"""Opening this server's vault, and making it with its key on the first start."""

from __future__ import annotations

from pathlib import Path

from quiesce.model.failure import AuthFailure, Evidence, VaultFailure
from quiesce.service.home import write_secret
from quiesce.service.settings import Settings
from quiesce.vault.format.keys import KeyFile, text_of_file
from quiesce.vault.format.slots import slot_opened_by
from quiesce.vault.places import create_store, open_store
from quiesce.vault.stores.files import sync_folder
from quiesce.vault.stores.store import Store
from quiesce.vault.vault import Vault


def open_vault(settings: Settings) -> Vault:
    """The vault of these settings.

    A key file means that the vault was made once: then it must be there, and an empty mount point
    is not taken for a first start. Without one the vault is made, and the key gets its final name
    after the vault, so that a first start cut short begins again with the same key.

    :raise AuthFailure: auth.key-unavailable, auth.key-wrong, auth.key-invalid
    :raise VaultFailure: vault.not-a-vault and others of `Vault.open`
    :raise StorageFailure: storage.vanished, storage.not-empty, storage.denied, and for a vault in
        the cloud those of `quiesce.vault.stores.address`
    """
    key_file = settings.vault_key_file
    if key_file.exists():
        store = open_store(settings.vault_address, cache_folder=settings.index_cache)
        key = KeyFile.parse(text_of_file(key_file))
        try:
            return Vault.open(store, key)
        except AuthFailure as wrong:
            wrong.evidence += (Evidence("the key was read from this file", str(key_file)),)
            raise
    store = create_store(settings.vault_address, cache_folder=settings.index_cache)
    pending = key_file.with_name(key_file.name + ".first-start")
    if not pending.exists():
        write_secret(pending, KeyFile.generate().text())
    key = KeyFile.parse(text_of_file(pending))
    try:
        vault = Vault.create(store, key)
    except VaultFailure as exists:
        if exists.code != "vault.exists":
            raise
        vault = _opened_by_first_key(store, key, pending, settings)
    pending.rename(key_file)
    return vault


def server_key(settings: Settings) -> KeyFile:
    """:raise AuthFailure: auth.key-unavailable, auth.key-invalid"""
    return KeyFile.parse(text_of_file(settings.vault_key_file))


def rotate_server_key(settings: Settings, vault: Vault) -> tuple[str, str]:
    """Give the server a new key and take the old one away; (new slot, old slot).

    Killed anywhere, the server starts again: the new key opens the vault before it becomes the
    server's, and the old one goes last. The next call uses what an earlier one has made.

    :raise AuthFailure: auth.key-wrong and as `server_key`
    """
    store, config = vault.contents.store, vault.config
    key_file = settings.vault_key_file
    old = slot_opened_by(store, config, server_key(settings))
    pending = key_file.with_name(key_file.name + ".next")
    if not pending.exists():
        write_secret(pending, KeyFile.generate().text())
    key = KeyFile.parse(text_of_file(pending))
    try:
        new = slot_opened_by(store, config, key)
    except AuthFailure:
        new = vault.add_key(key)
    pending.rename(key_file)
    sync_folder(key_file.parent)
    vault.remove_key(old)
    return new, old


def _opened_by_first_key(store: Store, key: KeyFile, pending: Path, settings: Settings) -> Vault:
    try:
        return Vault.open(store, key)
    except AuthFailure as wrong:
        pending.unlink()
        raise AuthFailure(
            "auth.key-unavailable",
            f"There is a vault at {settings.vault_address} and its key file is missing.",
            evidence=[Evidence("no such file", str(settings.vault_key_file))],
            remedy=f"Put the vault's key back to {settings.vault_key_file} (mode 0600), or set "
            "`vault` to an empty place.",
        ) from wrong
