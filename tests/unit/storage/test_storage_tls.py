"""The endpoint's own authority, certificate and keys."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from storage_site import Site, running

from quiesce.model.failure import StorageFailure
from quiesce.storage.authority import Authority
from quiesce.storage.endpoint import StorageEndpoint


def presented(site: Site, name: str = "localhost") -> x509.Certificate:
    """The certificate that a client gets, checked as strictly as Python can."""
    port = httpx.URL(site.endpoint.endpoint.url).port
    context = site.trusting()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[object]]:
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return named.get_values_for_type(x509.DNSName), named.get_values_for_type(x509.IPAddress)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_the_certificate_holds_for_the_hosts_name_and_its_address(site: Site, name: str) -> None:
    certificate = presented(site, name)
    assert names_of(certificate) == (["localhost"], [ipaddress.ip_address("127.0.0.1")])


def test_nobody_else_is_trusted_for_it(site: Site) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(site.endpoint.endpoint.url)


def test_old_versions_of_tls_are_refused(site: Site) -> None:
    context = site.trusting()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(site.endpoint.endpoint.url, verify=context)


def test_every_file_is_the_owners_alone(site: Site) -> None:
    site.upload(site.endpoint.status_url("web"), b"status")
    files = [path for path in site.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"ca-key.pem", "ca.pem", "server.pem", "account.key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = [site.folder, site.folder / "status"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_keys_stay_the_same_across_restarts(tmp_path: Path) -> None:
    with running(tmp_path) as before:
        url, pem = before.endpoint.status_url("web"), before.endpoint.endpoint.ca_pem
        certificate = presented(before)
    with running(tmp_path) as after:
        assert after.endpoint.endpoint.ca_pem == pem
        assert presented(after) == certificate
        again = f"{after.endpoint.endpoint.url}/{url.split('/', 3)[3]}"
        assert after.upload(again, b"status").status_code == 201, "signed with the same key"


def certificate_in(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())


def test_the_certificate_is_renewed_by_itself_before_it_ends(tmp_path: Path) -> None:
    authority = Authority(tmp_path, ("localhost",))
    first = certificate_in(tmp_path)
    assert timedelta(days=390) < first.not_valid_after_utc - datetime.now(UTC)
    assert not authority.renew(datetime.now(UTC) + timedelta(days=290))
    assert certificate_in(tmp_path) == first
    assert authority.renew(datetime.now(UTC) + timedelta(days=300))
    renewed = certificate_in(tmp_path)
    assert renewed.not_valid_after_utc > first.not_valid_after_utc + timedelta(days=290)
    authority.tls_context()


def test_a_running_endpoint_presents_the_renewed_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiesce.storage.listener._RENEWAL_CHECK_SECONDS", 0.05)
    with running(tmp_path) as site:
        first = presented(site)
        (tmp_path / "server.pem").unlink()
        deadline = datetime.now(UTC) + timedelta(seconds=60)
        while presented(site) == first:
            assert datetime.now(UTC) < deadline, "the old certificate is still presented"


def test_a_new_name_gets_a_new_certificate_from_the_same_authority(tmp_path: Path) -> None:
    pem = Authority(tmp_path, ("localhost",)).ca_pem
    again = Authority(tmp_path, ("backup.example", "10.0.0.1", "fd00::1"))
    assert again.ca_pem == pem
    dns, addresses = names_of(certificate_in(tmp_path))
    assert dns == ["backup.example"]
    assert addresses == [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1")]


def test_a_lost_authority_is_made_anew_with_its_certificate(tmp_path: Path) -> None:
    pem = Authority(tmp_path, ("localhost",)).ca_pem
    (tmp_path / "ca.pem").unlink()
    with running(tmp_path) as site:
        assert site.endpoint.endpoint.ca_pem != pem
        presented(site)


def test_guests_whose_clock_is_a_day_slow_believe_the_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path, ("localhost",))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for certificate in (
        certificate_in(tmp_path),
        x509.load_pem_x509_certificate(authority.ca_pem.encode()),
    ):
        assert certificate.not_valid_before_utc < yesterday


@pytest.mark.parametrize("file", ["ca-key.pem", "ca.pem", "account.key"])
def test_a_damaged_key_is_told_with_its_folder(tmp_path: Path, file: str) -> None:
    Authority(tmp_path, ("localhost",))
    (tmp_path / file).write_text("not a key")
    with pytest.raises(StorageFailure) as unusable:
        Authority(tmp_path, ("localhost",))
    assert unusable.value.code == "storage.endpoint-keys-unusable"
    assert str(tmp_path) in unusable.value.message


def test_an_authority_with_a_foreign_key_is_told(tmp_path: Path) -> None:
    Authority(tmp_path / "one", ("localhost",))
    Authority(tmp_path / "two", ("localhost",))
    (tmp_path / "two" / "ca-key.pem").rename(tmp_path / "one" / "ca-key.pem")
    with pytest.raises(StorageFailure) as unusable:
        Authority(tmp_path / "one", ("localhost",))
    assert unusable.value.code == "storage.endpoint-keys-unusable"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailure) as unusable:
        StorageEndpoint(tmp_path / "file" / "storage", address="127.0.0.1", port=0, host="h")
    assert unusable.value.code == "storage.endpoint-keys-unusable"


def test_an_address_that_is_not_this_hosts_is_told_with_the_address(tmp_path: Path) -> None:
    endpoint = StorageEndpoint(tmp_path, address="192.0.2.1", port=8443, host="h")
    with pytest.raises(StorageFailure) as refused:
        endpoint.start()
    assert refused.value.code == "storage.endpoint-bind-failed"
    assert "192.0.2.1" in refused.value.message
    assert "Cannot assign requested address" in refused.value.evidence[0].raw
    endpoint.close()


def test_a_taken_port_is_told_and_can_be_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        endpoint = StorageEndpoint(tmp_path, address="127.0.0.1", port=port, host="localhost")
        with pytest.raises(StorageFailure) as refused:
            endpoint.start()
        assert refused.value.code == "storage.endpoint-bind-failed"
    endpoint.start()
    trusted = ssl.create_default_context(cadata=endpoint.endpoint.ca_pem)
    assert httpx.get(endpoint.endpoint.url, verify=trusted).status_code == 400
    endpoint.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(endpoint.endpoint.url, verify=trusted)


def test_an_endpoint_that_was_ended_can_begin_again(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        url = site.endpoint.status_url("web")
        site.upload(url, b"before")
        site.endpoint.close()
        site.endpoint.start()
        again = f"{site.endpoint.endpoint.url}/{url.split('/', 3)[3]}"
        with ThreadPoolExecutor(8) as guest:
            answers = list(guest.map(lambda _: site.upload(again, b"after"), range(16)))
        assert {answer.status_code for answer in answers} == {201}
        assert site.endpoint.status_of("web")[0] == b"after"


def test_an_address_of_ipv6_stands_in_brackets(tmp_path: Path) -> None:
    endpoint = StorageEndpoint(tmp_path, address="::1", port=8443, host="fd00::1")
    assert endpoint.endpoint.url == "https://[fd00::1]:8443"
    assert endpoint.status_url("web").startswith("https://[fd00::1]:8443/quiesce/vm-web-")
