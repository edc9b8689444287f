"""Making a key that is to open a vault: a passphrase that somebody chooses, a file, or a recovery
key for the safe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from quiesce.cli import screen
from quiesce.cli.new_file import check_free, write_new
from quiesce.cli.vault_place import text_of, typed_unseen
from quiesce.model.failure import InputFailure

if TYPE_CHECKING:
    from quiesce.vault.format.keys import KeyMaterial

Kind = Literal["passphrase", "key-file", "recovery"]
NEW_PASSPHRASE = "QUIESCE_VAULT_NEW_PASSPHRASE"


@dataclass(frozen=True, slots=True)
class MadeKey:
    """`text` is what opens the vault from now on. `file` was written with it, else it is None."""

    kind: Kind
    text: str
    file: Path | None = None

    def material(self) -> KeyMaterial:
        """:raise InputFailure: input.passphrase-short, auth.key-invalid"""
        from quiesce.service.upkeep import material_of

        return material_of(self.kind, self.text)

    def discard(self) -> None:
        """It did not become a key: nobody must take its file for one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def show(self) -> None:
        if self.file is not None:
            screen.say(f"The key is in {self.file}. Keep a copy of it apart from the vault.")
        if self.kind == "recovery":
            screen.say(self.text, "bold")
            screen.say(
                "This recovery key opens the vault, and is shown this once. Print it or write it "
                "down, and keep it with your papers.",
                "bold yellow",
            )

    def told(self) -> dict[str, str]:
        """What a program is told of it: a recovery key is shown nowhere else."""
        told = {"file": str(self.file.absolute())} if self.file is not None else {}
        return told | ({"recovery_key": self.text} if self.kind == "recovery" else {})


def kind_of(key: KeyMaterial) -> Kind:
    for kind in get_args(Kind):
        if key.kind == kind:
            return kind  # type: ignore[no-any-return]
    raise ValueError(key.kind)


def check_made(kind: Kind, *, to: Path | None, passphrase_file: Path | None) -> None:
    """Whether a key of this kind is made with these: no option is given in vain.

    :raise InputFailure: input.usage
    """
    if to is None and kind == "key-file":
        raise InputFailure("input.usage", "Say where the new key file is written: `--to FILE`.")
    if to is not None and kind != "key-file":
        raise InputFailure(
            "input.usage",
            f"`--to` goes with a key file, and this key is a {kind}.",
            remedy="For a key file too: `quiesce vault key add key-file --to FILE`",
        )
    if passphrase_file is not None and kind != "passphrase":
        raise InputFailure(
            "input.usage",
            f"`--new-passphrase-file` goes with a passphrase, and this key is a {kind}.",
            remedy="For a passphrase too: `quiesce vault key add passphrase "
            "--new-passphrase-file FILE`",
        )


def make_key(kind: Kind, *, to: Path | None, passphrase_file: Path | None) -> MadeKey:
    """
    :raise InputFailure: input.usage, input.file-exists, input.file-unwritable,
        input.passphrase-short, input.passphrase-differs, auth.key-invalid
    """
    from quiesce.vault.format.keys import KeyFile, RecoveryKey

    check_made(kind, to=to, passphrase_file=passphrase_file)
    if kind == "recovery":
        return MadeKey(kind, RecoveryKey.generate().text())
    if to is not None:
        check_free(to)
        key = KeyFile.generate().text()
        write_new(to, key.encode())
        return MadeKey(kind, key, to)
    made = MadeKey(kind, _new_passphrase(passphrase_file))
    made.material()
    return made


def _new_passphrase(file: Path | None) -> str:
    if file is not None:
        return text_of(file).removesuffix("\n")
    given = os.environ.get(NEW_PASSPHRASE)
    if given:
        return given
    typed = typed_unseen("New passphrase: ")
    if typed is None:
        raise InputFailure(
            "input.usage",
            f"Give the new passphrase in a file, `--new-passphrase-file FILE`, or in "
            f"{NEW_PASSPHRASE}.",
        )
    MadeKey("passphrase", typed).material()  # one that is refused is not typed twice
    if typed_unseen("Once more: ") != typed:
        raise InputFailure("input.passphrase-differs", "The two passphrases differ.")
    return typed
