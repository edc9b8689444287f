"""Addresses of vaults: one canonical form, no secrets, no surprises."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.model.failure import InputFailure
from quiesce.vault import LocalStore
from quiesce.vault.places import create_store, open_store
from quiesce.vault.stores.address import describe, parse_address


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("/srv/vault", "/srv/vault"),
        ("file:///srv/vault", "/srv/vault"),
        ("file://localhost/srv/my%20vault", "/srv/my vault"),
        ("s3://bucket", "s3://bucket"),
        ("s3://my.bucket-1/a/b_c/2026/", "s3://my.bucket-1/a/b_c/2026"),
        ("S3://bucket//", "s3://bucket"),
        ("azure://container/prefix", "az://container/prefix"),
        ("az://container/prefix", "az://container/prefix"),
        ("gs://bucket_1/Prefix", "gs://bucket_1/Prefix"),
    ],
)
def test_an_address_has_one_canonical_form(given: str, canonical: str) -> None:
    assert describe(given) == canonical
    assert describe(canonical) == canonical


def test_a_relative_folder_counts_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert describe("vault") == str(tmp_path / "vault")


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "s3:bucket/prefix",
        "s3://",
        "s3:///prefix",
        "s3://Bucket",
        "s3://bucket:9000/prefix",
        "s3://b",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/with space",
        "s3://bucket/" + "/".join("a" * 20),
        "az://container/%2e%2e",
        "ftp://host/vault",
        "https://account.blob.core.windows.net/container",
        "file://host/srv/vault",
        "file:///",
        "/srv/va\nult",
        "~nosuchuser/vault",
        "file:///srv/a%00b",
        "file:///srv/%0Aforged:%20ok",
        "file:///srv/%ff%fe",
    ],
)
def test_what_is_no_address_is_refused_with_a_way_to_write_one(given: str) -> None:
    with pytest.raises(InputFailure) as refused:
        parse_address(given)
    assert refused.value.code == "input.vault-address-invalid"
    assert "s3://BUCKET" in refused.value.remedy


@pytest.mark.parametrize(
    "given",
    [
        "s3://AKIAEXAMPLE:SECRET@bucket/prefix",
        "az://container/prefix?sv=2024&sig=SECRET",
        "https://account.blob.core.windows.net/container?sig=SECRET",
        "gs://bucket/prefix#SECRET",
        "sftp://user:SECRET@host/path",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(InputFailure) as refused:
        parse_address(given)
    assert refused.value.code == "input.secret-in-address"
    assert "SECRET" not in repr(refused.value.report())


@given(st.text(max_size=60).map(lambda text: f"s3://bucket/{text}"))
def test_no_prefix_leads_out_of_its_bucket(given: str) -> None:
    try:
        address = parse_address(given)
    except InputFailure:
        return
    assert address.bucket == "bucket"
    assert ".." not in address.prefix.split("/")
    assert parse_address(str(address)) == address


def test_a_folder_is_opened_and_made_by_its_address(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/vault"
    made = create_store(place)
    assert isinstance(made, LocalStore)
    made.put("points/one", b"1")
    assert open_store(str(tmp_path / "vault")).get("points/one", limit_bytes=1) == b"1"
