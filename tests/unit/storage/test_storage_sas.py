"""Who may do what: service SAS."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode

import pytest
from azure.storage.blob import BlobSasPermissions, generate_blob_sas, generate_container_sas
from azure.storage.blob._shared.constants import X_MS_VERSION
from hypothesis import given, settings
from hypothesis import strategies as st

from quiesce.storage.refusal import Refusal
from quiesce.storage.request import read_query
from quiesce.storage.sas import NEWEST_VERSION, authorise, sas_query, signature

KEY = bytes(range(64))
NOW = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30)
permissions = st.sampled_from(["r", "w", "c", "rw", "rcw"])


def let_in(query: dict[str, str], container: str = "vm-a", blob: str = "b", **asked: str) -> None:
    authorise(
        KEY,
        query,
        container,
        blob,
        allowed_by=asked.get("allowed_by", "r"),
        peer=asked.get("peer", "10.0.0.9"),
        scheme=asked.get("scheme", "https"),
        now=NOW,
    )


def refused(query: dict[str, str], container: str = "vm-a", blob: str = "b", **asked: str) -> str:
    with pytest.raises(Refusal) as no:
        let_in(query, container, blob, **asked)
    assert no.value.status == 403
    return no.value.code


def signed(container: str = "vm-a", blob: str = "b", /, **fields: str) -> dict[str, str]:
    query = {"sv": "2020-12-06", "se": "2026-11-23T00:00:00Z", "sr": "b", "sp": "r", **fields}
    return {**query, "sig": signature(KEY, query, container, blob)}


@given(container=names, blob=names, granted=permissions, minutes=st.integers(1, 10**6))
def test_what_was_signed_lets_its_holder_in(
    container: str, blob: str, granted: str, minutes: int
) -> None:
    until = NOW + timedelta(minutes=minutes)
    text = sas_query(KEY, container, blob, permissions=granted, expires_at=until)
    for letter in granted:
        let_in(read_query(text.encode()), container, blob, allowed_by=letter)


@settings(max_examples=300)
@given(data=st.data())
def test_no_single_change_to_what_was_signed_lets_anybody_in(data: st.DataObject) -> None:
    snapshot = data.draw(st.sampled_from(["", "2026-11-22T23:00:00.0000000Z"]))
    until = NOW + timedelta(hours=1)
    text = sas_query(KEY, "vm-a", "disk", permissions="rw", expires_at=until, snapshot=snapshot)
    query = read_query(text.encode())
    container, blob, key = "vm-a", "disk", KEY
    what = data.draw(st.sampled_from([*query, "container", "blob", "key"]))
    if what == "container":
        container = data.draw(names.filter(lambda name: name != "vm-a"))
    elif what == "blob":
        blob = data.draw(names.filter(lambda name: name != "disk"))
    elif what == "key":
        key = data.draw(st.binary(min_size=1, max_size=64).filter(lambda other: other != KEY))
    else:
        old = query[what]
        query[what] = data.draw(
            st.one_of(
                names, permissions, st.just(""), st.just(old + "0"), st.just(old[:-1])
            ).filter(lambda new: new != old)
        )
    with pytest.raises(Refusal):
        authorise(key, query, container, blob, allowed_by="rw", peer="", scheme="https", now=NOW)


@given(field=st.sampled_from(["st", "sip", "si", "ses", "rscc", "rsct", "srt", "skoid", "sdd"]))
def test_nothing_can_be_added_to_what_was_signed(field: str) -> None:
    assert refused({**signed(), field: "2026-01-01"}) == "AuthenticationFailed"


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_a_signature_is_without_effect(position: int, bit: int) -> None:
    query = signed()
    raw = bytearray(base64.b64decode(query["sig"]))
    raw[position % len(raw)] ^= 1 << bit
    query["sig"] = base64.b64encode(bytes(raw)).decode()
    assert refused(query) == "AuthenticationFailed"


def test_a_line_end_in_a_value_cannot_pass_for_the_border_of_a_field() -> None:
    for text in ("sp=r%0Aw", "sv=2020-12-06&se=%0D%0A", "a%00=b", "sig=%C2%85"):
        with pytest.raises(Refusal) as no:
            read_query(text.encode())
        assert no.value.code == "InvalidQueryParameterValue"


@pytest.mark.parametrize("version", ["2018-11-09", "2020-02-10", "2020-12-06", X_MS_VERSION])
def test_what_the_sdk_signs_is_understood(version: str) -> None:
    from azure.storage.blob._shared_access_signature import BlobSharedAccessSignature

    factory = BlobSharedAccessSignature("quiesce", base64.b64encode(KEY).decode())
    factory.x_ms_version = version
    text = factory.generate_blob(
        "vm-a",
        "über/disk 1.vhd",
        permission="rw",
        start=NOW - timedelta(hours=1),
        expiry=NOW + timedelta(hours=1),
        ip="10.0.0.1-10.0.0.20",
        protocol="https",
        content_type="text/plain",
    )
    if version < "2020-12-06":  # the SDK always signs by its newest layout
        text = resigned(text, version)
    let_in(read_query(text.encode()), "vm-a", "über/disk 1.vhd", allowed_by="w")


def resigned(text: str, version: str) -> str:
    """The layout of 2018-11-09, written out once more."""
    query = {name: values[0] for name, values in parse_qs(text).items()}
    lines = [
        *(query["sp"], query["st"], query["se"], "/blob/quiesce/vm-a/über/disk 1.vhd"),
        *("", query["sip"], query["spr"], version, "b", "", "", "", "", "", query["rsct"]),
    ]
    return urlencode({**query, "sig": hmac_of(lines)})


def hmac_of(lines: list[str]) -> str:
    return base64.b64encode(
        hmac.new(KEY, "\n".join(lines).encode(), hashlib.sha256).digest()
    ).decode()


OLD_LAYOUTS = {
    "2012-02-12": ["r", "", "2026-11-23", "/quiesce/vm-a/b", "", "2012-02-12"],
    "2013-08-15": ["r", "", "2026-11-23", "/quiesce/vm-a/b", "", "2013-08-15", *[""] * 5],
    "2015-02-21": ["r", "", "2026-11-23", "/blob/quiesce/vm-a/b", "", "2015-02-21", *[""] * 5],
    "2015-04-05": [
        *("r", "", "2026-11-23", "/blob/quiesce/vm-a/b", "", "", "https", "2015-04-05"),
        *[""] * 5,
    ],
}


@pytest.mark.parametrize("version", OLD_LAYOUTS)
def test_old_versions_sign_what_they_signed_then(version: str) -> None:
    query = {"sv": version, "se": "2026-11-23", "sr": "b", "sp": "r"}
    if version == "2015-04-05":
        query["spr"] = "https"
    let_in({**query, "sig": hmac_of(OLD_LAYOUTS[version])})


def test_the_newest_version_that_is_accepted_is_the_sdks() -> None:
    assert NEWEST_VERSION == X_MS_VERSION


def test_a_container_sas_of_the_sdk_opens_its_own_container_alone() -> None:
    text = generate_container_sas(
        "quiesce", "vm-a", base64.b64encode(KEY).decode(), permission="r", expiry="2026-11-23"
    )
    query = read_query(text.encode())
    let_in(query, "vm-a", "anything")
    assert refused(query, "vm-b", "anything") == "AuthenticationFailed"


def test_a_snapshot_sas_of_the_sdk_opens_that_snapshot_alone() -> None:
    text = generate_blob_sas(
        "quiesce",
        "vm-a",
        "b",
        snapshot="2026-11-22T23:01:02.1234560Z",
        account_key=base64.b64encode(KEY).decode(),
        permission=BlobSasPermissions(read=True),
        expiry=NOW + timedelta(hours=1),
    )
    query = read_query(text.encode())
    let_in({**query, "snapshot": "2026-11-22T23:01:02.1234560Z"})
    assert refused({**query, "snapshot": "2026-11-22T23:01:02.1234570Z"}) == "AuthenticationFailed"
    assert refused(query) == "AuthenticationFailed"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"se": "2026-11-22T22:59:59Z"}, "AuthenticationFailed"),
        ({"se": "2026-11-22T23:00:00Z"}, "AuthenticationFailed"),
        ({"se": "2026-11-22"}, "AuthenticationFailed"),
        ({"se": "soon"}, "AuthenticationFailed"),
        ({"se": "2026-11-23T00:00:00+00:00"}, "AuthenticationFailed"),
        ({"se": "2026-02-31"}, "AuthenticationFailed"),
        ({"st": "2026-11-22T23:00:01Z"}, "AuthenticationFailed"),
        ({"sv": "2011-08-18"}, "AuthenticationFailed"),
        ({"sv": "2999-01-01"}, "AuthenticationFailed"),
        ({"sv": "newest"}, "AuthenticationFailed"),
        ({"sr": "d"}, "AuthenticationFailed"),
        ({"sr": "bs"}, "AuthenticationFailed"),
        ({"sp": "w"}, "AuthorizationPermissionMismatch"),
        ({"spr": "http"}, "AuthorizationProtocolMismatch"),
        ({"sip": "10.0.0.1"}, "AuthorizationSourceIPMismatch"),
        ({"sip": "10.0.0.1-10.0.0.8"}, "AuthorizationSourceIPMismatch"),
        ({"sip": "everywhere"}, "AuthorizationSourceIPMismatch"),
        ({"sip": "::1"}, "AuthorizationSourceIPMismatch"),
    ],
)
def test_a_good_signature_is_not_enough(fields: dict[str, str], code: str) -> None:
    assert refused(signed(**fields)) == code


@pytest.mark.parametrize(
    "fields",
    [
        {"st": "2026-11-22T23:00:00Z"},
        {"st": "2026-11-22"},
        {"se": "2026-11-22T23:00:01.1234567Z"},
        {"se": "2026-11-22T23:01Z"},
        {"spr": "https,http"},
        {"sip": "10.0.0.9"},
        {"sip": "10.0.0.9-10.0.0.9"},
        {"sp": "racwd"},
    ],
)
def test_every_usual_form_of_a_sas_is_let_in(fields: dict[str, str]) -> None:
    let_in(signed(**fields))


def test_an_ipv4_guest_that_came_over_an_ipv6_socket_is_known_by_its_address() -> None:
    let_in(signed(sip="10.0.0.9"), peer="::ffff:10.0.0.9")


@pytest.mark.parametrize("missing", ["sig", "sv", "sr", "sp", "se"])
def test_nothing_that_matters_may_be_missing_or_empty(missing: str) -> None:
    query = signed()
    assert refused({**query, missing: ""}) == "AuthenticationFailed"
    del query[missing]
    assert refused(query) == "AuthenticationFailed"
