"""Service SAS: signed URLs that let their holder do some things to one blob for some time.

    ?sv=2020-12-06&spr=https&se=2026-01-31T00%3A00%3A00Z&sr=b&sp=rw&sig=…

`sig` is the base64 of the HMAC-SHA256, under the account's key, of the fields joined by line ends.
Which fields, and in which order, has changed with the version `sv`, which is itself signed:

    2020-12-06  sp st se resource si sip spr sv sr snapshot ses rscc rscd rsce rscl rsct
    2018-11-09  the same without ses
    2015-04-05  the same without sr and snapshot
    2013-08-15  the same without sip and spr
    2012-02-12  sp st se resource si sv

`resource` is `/blob/account/container[/blob]`, without `/blob` before 2015-02-21. Values are signed
as they are after percent-decoding, so one with a line end in it is refused: it could pass for two.
Source: "Create a service SAS" of Azure's REST reference, and azure-storage-blob as a second reader.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from quiesce.storage import refusal
from quiesce.storage.naming import ACCOUNT

OLDEST_VERSION = "2012-02-12"
NEWEST_VERSION = "2026-10-06"
OUR_VERSION = "2020-12-06"

_OVERRIDES = ("rscc", "rscd", "rsce", "rscl", "rsct")
_VERSION = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,7})?)?Z)?", re.ASCII)

_OTHER_KINDS = {
    "ss": "account SAS",
    "srt": "account SAS",
    "skoid": "user delegation SAS",
    "sktid": "user delegation SAS",
    "sdd": "directory SAS",
    "si": "stored access policy",
}


def sas_query(
    key: bytes,
    container: str,
    blob: str,
    *,
    permissions: str,
    expires_at: datetime,
    snapshot: str = "",
) -> str:
    """The query string of a SAS for one blob, or with `snapshot` for that snapshot of it alone,
    over HTTPS. `permissions` in Azure's letters (r read, c create and snapshot, w write)."""
    query = {
        "sv": OUR_VERSION,
        "spr": "https",
        "se": expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sr": "bs" if snapshot else "b",
        "sp": permissions,
    }
    if snapshot:
        query["snapshot"] = snapshot
    query["sig"] = signature(key, query, container, blob)
    return urlencode(query, quote_via=quote, safe="")


def authorise(
    key: bytes,
    query: Mapping[str, str],
    container: str,
    blob: str,
    *,
    allowed_by: str,
    peer: str,
    scheme: str,
    now: datetime,
) -> None:
    """Return if this query's SAS lets `peer` do to this blob what any one of the permissions in
    `allowed_by` allows.

    :raise Refusal: AuthenticationFailed, AuthorizationPermissionMismatch,
        AuthorizationSourceIPMismatch, AuthorizationProtocolMismatch
    """
    _check_form(query)
    expected = signature(key, query, container, blob)
    if not hmac.compare_digest(expected.encode(), query["sig"].encode()):
        raise refusal.authentication_failed("Signature did not match.")
    _check_time(query, now)
    if "spr" in query and scheme not in query["spr"].split(","):
        raise refusal.protocol_mismatch()
    if "sip" in query and not _inside(peer, query["sip"]):
        raise refusal.source_address_mismatch(peer)
    if not set(allowed_by) & set(query["sp"]):
        raise refusal.permission_mismatch()


def signature(key: bytes, query: Mapping[str, str], container: str, blob: str) -> str:
    """What `sig` must be for these fields."""
    text = "\n".join(_signed_fields(query, container, blob))
    return base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode("ascii")


def _signed_fields(query: Mapping[str, str], container: str, blob: str) -> list[str]:
    version = query["sv"]
    path = f"/{ACCOUNT}/{container}" if query["sr"] == "c" else f"/{ACCOUNT}/{container}/{blob}"
    resource = path if version < "2015-02-21" else f"/blob{path}"

    def values(*names: str) -> list[str]:
        return [query.get(name, "") for name in names]

    fields = [*values("sp", "st", "se"), resource, *values("si")]
    if version >= "2015-04-05":
        fields += values("sip", "spr")
    fields += values("sv")
    if version >= "2018-11-09":
        fields += [query["sr"], query.get("snapshot", "") if query["sr"] == "bs" else ""]
    if version >= "2020-12-06":
        fields += values("ses")
    if version >= "2013-08-15":
        fields += values(*_OVERRIDES)
    return fields


def _check_form(query: Mapping[str, str]) -> None:
    for name, kind in _OTHER_KINDS.items():
        if name in query:
            raise refusal.authentication_failed(f"A {kind} ({name}) is not accepted here.")
    for name in ("sig", "sv", "sr", "sp", "se"):
        if not query.get(name):
            raise refusal.authentication_failed(f"{name} is mandatory and cannot be empty.")
    version, kind = query["sv"], query["sr"]
    if not _VERSION.fullmatch(version) or not OLDEST_VERSION <= version <= NEWEST_VERSION:
        raise refusal.authentication_failed("sv is not a version that is served here.")
    if kind not in ("b", "c", "bs") or (kind == "bs" and version < "2018-11-09"):
        raise refusal.authentication_failed("sr is invalid.")
    if kind == "bs" and not query.get("snapshot"):
        raise refusal.authentication_failed("sr=bs wants a snapshot.")


def _check_time(query: Mapping[str, str], now: datetime) -> None:
    starts_at = _time("st", query["st"]) if query.get("st") else None
    expires_at = _time("se", query["se"])
    if now >= expires_at or (starts_at is not None and now < starts_at):
        raise refusal.authentication_failed(
            f"Signature not valid in the specified time frame: Start [{query.get('st', '')}] - "
            f"Expiry [{query['se']}] - Current [{now.strftime('%a, %d %b %Y %H:%M:%S GMT')}]"
        )


def _time(name: str, text: str) -> datetime:
    if _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise refusal.authentication_failed(f"{name} is not a UTC time.")


def _inside(peer: str, allowed: str) -> bool:
    """Whether `peer` is the address or lies in the range `first-last` that is allowed."""
    first, _, last = allowed.partition("-")
    try:
        address, low = ipaddress.ip_address(peer), ipaddress.ip_address(first)
        high = ipaddress.ip_address(last) if last else low
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not address.version == low.version == high.version:
        return False
    return int(low) <= int(address) <= int(high)
