"""Where a vault lies, in one line of text.

    /srv/vault · file:///srv/vault        a folder
    s3://BUCKET[/PREFIX]                  Amazon S3, and servers that speak as it does
    az://CONTAINER[/PREFIX] · azure://…   Azure Blob Storage
    gs://BUCKET[/PREFIX]                  Google Cloud Storage

Addresses are shown, logged and kept, so they hold no secret: accounts, credentials, regions and
endpoints come from the environment and the clouds' own files, see `cloud`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import unquote

from quiesce.model.failure import InputFailure


class Scheme(Enum):
    FILE = "file"
    S3 = "s3"
    AZURE = "az"
    GOOGLE = "gs"


_SCHEMES = {scheme.value: scheme for scheme in Scheme} | {"azure": Scheme.AZURE}
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)\Z", re.IGNORECASE | re.DOTALL)
_ALMOST_URL = re.compile(r"(?:file|s3|az|azure|gs|https?):", re.IGNORECASE)
# The widest of the three clouds' rules for names of buckets and containers.
_BUCKET = re.compile(r"[a-z0-9$][a-z0-9._-]{1,220}[a-z0-9]\Z")
_PREFIX_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=-]{0,199}\Z")
_PREFIX_PARTS = 16
_FORMS = (
    "Write it as `/FOLDER`, `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `gs://BUCKET/PREFIX`."
)


@dataclass(frozen=True, slots=True)
class Address:
    """`folder` is absolute and set for folders only; `bucket` and `prefix` for all others, the
    prefix without slashes at its ends."""

    scheme: Scheme
    folder: Path | None = None
    bucket: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        if self.folder is not None:
            return str(self.folder)
        return f"{self.scheme.value}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def parse_address(text: str) -> Address:
    """:raise InputFailure: input.vault-address-invalid, input.secret-in-address; neither repeats
    what was given, since it may hold a secret
    """
    _refuse_unprintable(text)
    url = _URL.match(text)
    if url is None:
        if _ALMOST_URL.match(text):
            raise _invalid("After the scheme come two slashes.")
        try:
            return Address(Scheme.FILE, folder=Path(text).expanduser().absolute())
        except RuntimeError as error:
            raise _invalid("Nobody on this machine has the name after '~'.") from error
    scheme, rest = _SCHEMES.get(url[1].lower()), url[2]
    _refuse_secrets(rest)
    if scheme is None:
        raise _invalid(f"Vaults are not kept at {url[1][:20].lower()}://.")
    place, _, path = rest.partition("/")
    if scheme is Scheme.FILE:
        if place not in ("", "localhost") or not path.strip("/"):
            raise _invalid("A folder is written with three slashes and its whole path.")
        try:
            folder = unquote(f"/{path}", errors="strict")
        except UnicodeDecodeError as error:
            raise _invalid("What its '%' stand for is no UTF-8.") from error
        _refuse_unprintable(folder)
        return Address(scheme, folder=Path(folder))
    if not _BUCKET.match(place):
        raise _invalid("The name of the bucket or container is not one.")
    parts = path.strip("/").split("/") if path.strip("/") else []
    if len(parts) > _PREFIX_PARTS or not all(_PREFIX_PART.match(part) for part in parts):
        raise _invalid("The prefix is made of letters, digits, '-', '_', '.', '=' and single '/'.")
    return Address(scheme, bucket=place, prefix="/".join(parts))


def describe(address: str) -> str:
    """The address in its one canonical form, for people. It never holds a secret.

    :raise InputFailure: as `parse_address`
    """
    return str(parse_address(address))


def _refuse_unprintable(text: str) -> None:
    if not text.isprintable() or not text.strip():
        raise _invalid("It is empty or holds characters that cannot be printed.")


def _refuse_secrets(rest: str) -> None:
    place = rest.partition("/")[0]
    if "@" in place or "?" in rest or "#" in rest:
        raise InputFailure(
            "input.secret-in-address",
            "The vault's address holds more than a place: a name, a password or a signature.",
        )


def _invalid(why: str) -> InputFailure:
    return InputFailure(
        "input.vault-address-invalid", f"This is no address of a vault. {why}", remedy=_FORMS
    )
