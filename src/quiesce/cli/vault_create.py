"""`quiesce vault create`: a new vault, made here and not by a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.options import COMMON, Common
from quiesce.cli.vault_key_made import MadeKey, make_key
from quiesce.cli.vault_place import key_of_text, text_of


def create(
    address: Annotated[
        str, Parameter(help="A new or empty folder, or s3://…, az://…, gs://… with a prefix.")
    ],
    /,
    *,
    key_file: Annotated[
        Path | None,
        Parameter(help="Key file that opens it; made if there is none. Default: a passphrase."),
    ] = None,
    new_passphrase_file: Annotated[
        Path | None,
        Parameter(
            help="File with a passphrase that opens it, beside a key file too. Without either it "
            "is asked for."
        ),
    ] = None,
    recovery: Annotated[
        bool, Parameter(show_default=False, help="Make a recovery key too, and show it once.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Make an empty vault in a folder of its own, or at s3://…, az://…, gs://….

    A server makes its own vault at its first start.
    """
    from quiesce.vault.places import create_store
    from quiesce.vault.vault import Vault

    made: list[MadeKey] = []
    # The passphrase first: it may be refused, and then no file has been written.
    if key_file is None or new_passphrase_file is not None:
        made.append(make_key("passphrase", to=None, passphrase_file=new_passphrase_file))
    if recovery:
        made.append(make_key("recovery", to=None, passphrase_file=None))
    given = []
    if key_file is not None and key_file.exists():
        given.append(key_of_text(text_of(key_file), key_file))
    elif key_file is not None:
        made.append(make_key("key-file", to=key_file, passphrase_file=None))
    keys = [*given, *(key.material() for key in made)]
    try:
        store = create_store(address)
        vault = Vault.create(store, *keys)
    except BaseException:
        for key in made:
            key.discard()
        raise
    answer = {"location": store.address, "id": vault.config.vault_id}
    for key in made:
        answer |= key.told()

    def human() -> None:
        screen.say(f"There is a vault at {store.address}, id {vault.config.vault_id}.", "green")
        for key in made:
            key.show()

    screen.emit(answer, as_json=common.json, human=human)
