"""Ways to the clouds: clients for a bucket, made from what their own tools read.

Whoever can use the cloud's own command line on this machine, as this user, needs to set nothing
for Quiesce:

S3      AWS_* variables, profiles and SSO (AWS_PROFILE, ~/.aws), web identity, container and
        instance roles, all as botocore finds them; AWS_REGION; AWS_ENDPOINT_URL_S3,
        AWS_ENDPOINT_URL for servers that speak S3
Azure   AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY,
        AZURE_STORAGE_SAS_TOKEN, a service principal (AZURE_CLIENT_ID, …), workload identity,
        `az login`, else the machine's managed identity; AZURE_STORAGE_ENDPOINT
Google  GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, else the
        machine's service account; STORAGE_EMULATOR_HOST

Read anew with every `connect`, so credentials that somebody renews are found.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from quiesce.model.failure import Evidence, InputFailure, StorageFailure
from quiesce.vault.stores.address import Address, Scheme

if TYPE_CHECKING:
    from obstore.store import AzureConfig, GCSConfig, S3Config
    from obstore.store import ObjectStore as Client

    from quiesce.vault.stores.s3_locks import S3Locks

_CONNECT_SECONDS = 10
_READ_SECONDS = 120
"""A sealed object of 64 MiB at half a megabyte a second."""
_WRITE_SECONDS = 600
"""A pack of 32 MiB at a small office's 0.5 Mbit/s upwards."""
_AZURITE_ACCOUNT = "devstoreaccount1"
_AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""Published by Microsoft for its emulator; everybody has it."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Two ways to one bucket, which differ in how long a request may take. Neither tries twice:
    that is the store's, which must know how often it asked. `locks` is a third, where retention
    locks can be set."""

    reads: Client
    writes: Client
    locks: S3Locks | None = None


Connect = Callable[[], Clients]
"""Makes clients from the credentials of this moment.

:raise StorageFailure: storage.credentials-missing, storage.credentials-refused
:raise InputFailure: input.endpoint-unsafe
"""


def connector(address: Address) -> Connect:
    make = {Scheme.AZURE: _azure, Scheme.GOOGLE: _google}.get(address.scheme)

    def connect() -> Clients:
        try:
            if make is None:
                return _s3(address)
            return Clients(make(address, _READ_SECONDS), make(address, _WRITE_SECONDS))
        except BaseError as refused:
            raise credentials_missing(str(address), str(refused)) from refused

    return connect


def credentials_missing(where: str, why: str) -> StorageFailure:
    return StorageFailure(
        "storage.credentials-missing",
        f"Nothing on this machine says with whose credentials {where} is to be used.",
        evidence=[Evidence(why.partition("Debug source")[0].strip()[:300], where)],
    )


def _common(address: Address, seconds: int, endpoint: str, *, signed: bool) -> dict[str, Any]:
    """`signed`: requests carry a signature and no secret, so that plain HTTP gives none away."""
    plain = endpoint.lower().startswith("http://")
    if plain and not signed and not _on_this_machine(endpoint):
        raise InputFailure(
            "input.endpoint-unsafe",
            f"The endpoint for {address} is plain HTTP, and what opens the store would travel "
            "in the clear.",
            evidence=[Evidence("http:// to another machine", urlsplit(endpoint).hostname or "")],
        )
    return {
        "prefix": address.prefix or None,
        "retry_config": {"max_retries": 0},
        "client_options": {
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            "timeout": timedelta(seconds=seconds),
            "allow_http": plain,
        },
    }


def _on_this_machine(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first(*names: str) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _s3(address: Address) -> Clients:
    # Imported here: only this cloud's credentials need it.
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    from quiesce.vault.stores.s3_locks import S3Locks

    try:
        session = Session()
        found = session.get_credentials()
        keys = found.get_frozen_credentials() if found is not None else None
        region = session.get_config_variable("region")
        profile = session.get_scoped_config()
    except BotoCoreError as refused:
        raise credentials_missing(str(address), str(refused)) from refused
    if keys is None or not keys.access_key:
        raise credentials_missing(str(address), "botocore found no credentials")
    endpoint = _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = endpoint or str(profile.get("endpoint_url") or "")
    region = _first("AWS_REGION") or region or "us-east-1"
    config: S3Config = {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "region": region,
        # Buckets with a retention lock take no upload without a checksum.
        "checksum_algorithm": _first("AWS_CHECKSUM_ALGORITHM") or "SHA256",
        # Single deletions say plainly when a lock forbids them, and are what all servers know.
        "disable_bulk_delete": True,
    }
    if keys.token:
        config["session_token"] = keys.token
    if endpoint:
        config["endpoint"] = endpoint

    def store(seconds: int) -> Client:
        common = _common(address, seconds, endpoint, signed=True)
        return S3Store(address.bucket, config=config, **common)

    locks = S3Locks(
        session,
        bucket=address.bucket,
        prefix=address.prefix,
        region=region,
        endpoint=endpoint,
        connect_seconds=_CONNECT_SECONDS,
        read_seconds=_WRITE_SECONDS,
    )
    return Clients(store(_READ_SECONDS), store(_WRITE_SECONDS), locks)


def _azure(address: Address, seconds: int) -> Client:
    said = _connection_string(os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    account = said.get("accountname") or _first(
        "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"
    )
    key = said.get("accountkey") or _first(
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"
    )
    signature = said.get("sharedaccesssignature") or _first(
        "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"
    )
    endpoint = said.get("blobendpoint") or _first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    suffix = said.get("endpointsuffix", "")
    if not endpoint and suffix and account:
        endpoint = f"https://{account}.blob.{suffix}"
    if not account:
        raise credentials_missing(
            str(address), "neither AZURE_STORAGE_ACCOUNT nor a connection string is set"
        )
    config: AzureConfig = {"account_name": account}
    if key:
        config["account_key"] = key
    elif signature:
        config["sas_key"] = signature.lstrip("?")
    elif _first("AZURE_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_TOKEN") == "":
        config["use_azure_cli"] = _logged_in_by_azure_cli()
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    common = _common(address, seconds, endpoint, signed=bool(key))
    return AzureStore(address.bucket, config=config, **common)


def _connection_string(text: str) -> dict[str, str]:
    """Names in lower case; `UseDevelopmentStorage` as what it stands for."""
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    said = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if said.get("usedevelopmentstorage", "").lower() == "true":
        said.setdefault("accountname", _AZURITE_ACCOUNT)
        said.setdefault("accountkey", _AZURITE_KEY)
        said.setdefault("blobendpoint", f"http://127.0.0.1:10000/{_AZURITE_ACCOUNT}")
    return said


def _logged_in_by_azure_cli() -> bool:
    folder = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
    return shutil.which("az") is not None and (folder / "azureProfile.json").exists()


def _google(address: Address, seconds: int) -> Client:
    emulator = _first("STORAGE_EMULATOR_HOST")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    endpoint = emulator or _first("GOOGLE_BASE_URL")
    config: GCSConfig = {}
    if endpoint:
        config["base_url"] = endpoint.rstrip("/")
    if emulator:
        # An emulator asks nobody who it is that comes.
        config["bearer_token"] = "emulator"
    return GCSStore(
        address.bucket, config=config, **_common(address, seconds, endpoint, signed=False)
    )
