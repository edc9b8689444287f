"""Recovery points at rest. See docs/explanation/vault-format.md."""

from quiesce.vault.format.keys import KdfCost, KeyFile, KeyMaterial, Passphrase, RecoveryKey
from quiesce.vault.stores.local import LocalStore
from quiesce.vault.stores.store import Store
from quiesce.vault.vault import Vault, VaultStatus

__all__ = [
    "KdfCost",
    "KeyFile",
    "KeyMaterial",
    "LocalStore",
    "Passphrase",
    "RecoveryKey",
    "Store",
    "Vault",
    "VaultStatus",
]
