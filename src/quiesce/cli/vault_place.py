"""A vault that is opened here, without any server: where it is and with which key."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.model.failure import AuthFailure, Evidence, InputFailure, VaultFailure

if TYPE_CHECKING:
    from quiesce.vault.format.keys import KeyMaterial
    from quiesce.vault.stores.store import Store
    from quiesce.vault.vault import Vault

_KEY_FILE = "QUIESCE_VAULT_KEY_FILE"
PASSPHRASE = "QUIESCE_VAULT_PASSPHRASE"
"""Environment variable; a command line is seen by everybody on the machine."""

SILENCE_SECONDS = 3.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Place:
    """Which vault, when it is not the server's. Only `at` None means the server's: not "", which is
    what a shell makes of a variable that is not set.

    :raise InputFailure: input.vault-address-invalid, input.usage
    """

    at: Annotated[
        str | None,
        Parameter(
            show_default=False,
            help="Open the vault at this folder or URL here, without any server.",
        ),
    ] = None
    key_file: Annotated[
        Path | None,
        Parameter(
            env_var=_KEY_FILE,
            help="With --at: file with the vault's key or its recovery key.",
        ),
    ] = None
    passphrase_file: Annotated[
        Path | None, Parameter(help="With --at: file that holds the passphrase.")
    ] = None

    def __post_init__(self) -> None:
        said = self._said
        if self.at is not None and not self.at.strip():
            raise InputFailure(
                "input.vault-address-invalid",
                "The address given with `--at` is empty.",
                remedy="Say where the vault lies: `--at ADDRESS`. Without `--at` it is the "
                "server's vault.",
            )
        if self.at is None and said:
            raise InputFailure(
                "input.usage",
                f"`{said[0]}` goes with `--at`: the server has its key.",
                remedy="Say which vault it opens: `--at ADDRESS`. For the server's, leave it out.",
            )
        if len(said) > 1:
            raise InputFailure("input.usage", f"{' and '.join(said)} exclude each other.")

    @property
    def _said(self) -> list[str]:
        """The options that the command line gives a key with. The environment may hold one for
        whenever it is of use; a command line holds none in vain."""
        of_environment = self.key_file == Path(os.environ.get(_KEY_FILE, ""))
        said = [] if self.key_file is None or of_environment else ["--key-file"]
        return said if self.passphrase_file is None else [*said, "--passphrase-file"]

    def check_keyless(self, without_key: bool) -> None:
        """:raise InputFailure: input.usage, when a key is given and is not to be used"""
        if without_key and self._said:
            raise InputFailure(
                "input.usage", f"--without-key and {self._said[0]} exclude each other."
            )

    def check_no_key(self) -> None:
        """:raise InputFailure: input.usage, when a key is given to what needs none"""
        if self._said:
            raise InputFailure(
                "input.usage",
                f"No key is needed for this: `{self._said[0]}` would do nothing.",
                remedy=f"Leave `{self._said[0]}` out.",
            )

    def check_wait(self, wait: bool) -> None:
        """:raise InputFailure: input.usage, when nobody could go on with what is not waited for"""
        if self.at is not None and not wait:
            raise InputFailure(
                "input.usage",
                "`--no-wait` is for a server's jobs: with `--at` the work ends with the command.",
                remedy="Leave `--no-wait` out, or `--at`, if it is the server's vault.",
            )

    @property
    def address(self) -> str:
        """Of the vault at `--at`; ask for it only then."""
        if self.at is None:
            raise ValueError("the server's vault has no address here")
        return self.at

    def store(self) -> Store:
        """What lies there; no key is asked for."""
        from quiesce.vault.places import open_store

        return open_store(self.address)

    def open(self) -> Vault:
        """
        :raise VaultFailure: vault.locked, when there is no key and nobody to be asked
        :raise AuthFailure: auth.key-wrong, auth.key-unavailable
        """
        from quiesce.vault.vault import Vault

        store, key = self.store(), self.key()
        try:
            with _told_when_slow(f"Still waiting for the vault at {self.address} to open."):
                return Vault.open(store, key)
        except AuthFailure as wrong:
            file = self.key_path
            if file is not None:
                wrong.evidence += (Evidence("the key was read from this file", str(file)),)
            raise

    @property
    def key_path(self) -> Path | None:
        """The file that the key is in. One that this command names wins over one that only the
        environment does: there is no variable for a passphrase's file."""
        return self.passphrase_file or self.key_file

    @property
    def words(self) -> str:
        """The options that say it again, with a space before; never a secret."""
        if self.at is None:
            return ""
        words = f" --at {shlex.quote(self.at)}"
        if self.passphrase_file is not None:
            words += f" --passphrase-file {shlex.quote(str(self.passphrase_file))}"
        elif self.key_file is not None:
            words += f" --key-file {shlex.quote(str(self.key_file))}"
        return words

    def key(self) -> KeyMaterial:
        """From a file, the environment, or whoever sits there."""
        from quiesce.vault.format.keys import Passphrase

        if self.passphrase_file is not None:
            return Passphrase(text_of(self.passphrase_file).removesuffix("\n"))
        if self.key_file is not None:
            return key_of_text(text_of(self.key_file), self.key_file)
        given = os.environ.get(PASSPHRASE)
        if given:
            return Passphrase(given)
        return _typed(self.address)


PLACE = Place()


@contextmanager
def _told_when_slow(words: str) -> Iterator[None]:
    """A store that cannot be reached is tried several times: half a minute, of which somebody who
    waits would know nothing."""
    timer = threading.Timer(SILENCE_SECONDS, screen.err.print, [screen.clean(words)])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def as_json_value(value: object) -> Any:
    """A value of ours as the API would give it."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


def text_of(path: Path) -> str:
    """:raise AuthFailure: auth.key-unavailable"""
    from quiesce.vault.format.keys import text_of_file

    return text_of_file(path, remedy="Give a file that holds the key, and that you may read.")


def key_of_text(text: str, path: Path) -> KeyMaterial:
    """What is in a key file: the key as hexadecimal digits, or a recovery key.

    :raise AuthFailure: auth.key-invalid
    """
    from quiesce.vault.format.keys import KeyFile, RecoveryKey

    with suppress(AuthFailure):
        return KeyFile.parse(text)
    try:
        return RecoveryKey.parse(text)
    except AuthFailure as wrong:
        raise AuthFailure(
            "auth.key-invalid",
            f"{path} holds no key of a vault.",
            evidence=[Evidence("neither a key file nor a recovery key", str(path))],
        ) from wrong


def typed_unseen(prompt: str) -> str | None:
    """What somebody types at the terminal; None when there is nobody, or they end the input."""
    if not sys.stdin.isatty():
        return None
    try:
        return getpass.getpass(prompt)
    except EOFError:
        screen.err.print()
        return None


def _typed(at: str) -> KeyMaterial:
    """What somebody types: a recovery key looks like one, everything else is a passphrase."""
    from quiesce.vault.format.keys import Passphrase, RecoveryKey

    typed = typed_unseen(f"Passphrase or recovery key of {at}: ")
    if typed is None:
        raise VaultFailure(
            "vault.locked",
            f"The vault at {at} is locked: no key was given.",
            remedy=f"Give `--key-file FILE` or `--passphrase-file FILE`, or set {PASSPHRASE}.",
        )
    with suppress(AuthFailure):
        return RecoveryKey.parse(typed)
    return Passphrase(typed)
