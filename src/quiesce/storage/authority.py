"""The storage endpoint's own keys: its certificate authority, its certificate, its account key.

The folder holds, each 0600 in a folder of 0700, made when missing:

    ca-key.pem    the authority's key, PKCS8
    ca.pem        its certificate, for 30 years: guests are given it to trust, for this endpoint
    server.pem    key and certificate of the endpoint, for 397 days, renewed when 100 are left
    account.key   the key that SAS are signed with, base64 of 64 bytes, as Azure's account keys are

A lost authority is made anew: guests learn it again with the next goal state.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.storage.files import write_whole

_AUTHORITY_LIFE = timedelta(days=30 * 365)
_SERVER_LIFE = timedelta(days=397)
_RENEWED_BEFORE_END = timedelta(days=100)
_BACKDATED = timedelta(days=2)
"""Guests whose clock is slow are to believe the certificate too."""
_ACCOUNT_KEY_BYTES = 64


class Authority:
    """The keys in one folder. `names` are what the endpoint is reached by: host names and
    addresses."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        """:raise StorageFailure: storage.endpoint-keys-unusable"""
        self._folder = folder
        self._names = names
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._key, self._certificate = self._authority()
            self.account_key = self._account_key()
            self.renew(datetime.now(UTC))
        except (OSError, ValueError, TypeError) as unusable:
            raise StorageFailure(
                "storage.endpoint-keys-unusable",
                f"The keys of the storage endpoint in {folder} cannot be used.",
                evidence=[Evidence("not usable", str(folder), raw=str(unusable))],
                remedy="Give the files back to the server's user, or move the folder away: keys "
                "are then made anew.",
            ) from unusable

    @property
    def ca_pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def tls_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._server_file)
        return context

    def renew(self, now: datetime) -> bool:
        """Make the endpoint's certificate if it is missing, nears its end, or does not name what
        it must, and say whether that was so.

        :raise OSError: it cannot be written; the one before stays
        """
        if self._server_is_good(now):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _certificate(self._names[0], key.public_key(), now, _SERVER_LIFE)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(self._wanted_names(), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        write_whole(
            self._server_file,
            _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM),
        )
        return True

    @property
    def _server_file(self) -> Path:
        return self._folder / "server.pem"

    def _wanted_names(self) -> x509.SubjectAlternativeName:
        return x509.SubjectAlternativeName([_general_name(name) for name in self._names])

    def _server_is_good(self, now: datetime) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(self._server_file.read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
            named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (FileNotFoundError, ValueError, x509.ExtensionNotFound, InvalidSignature):
            return False
        return (
            certificate.not_valid_before_utc <= now
            and certificate.not_valid_after_utc - now > _RENEWED_BEFORE_END
            and named.value == self._wanted_names()
        )

    def _authority(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key_file, certificate_file = self._folder / "ca-key.pem", self._folder / "ca.pem"
        if key_file.exists() and certificate_file.exists():
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{key_file} holds no elliptic curve key")
            if certificate.public_key() != key.public_key():
                raise ValueError(f"{key_file} does not belong to {certificate_file}")
            if certificate.not_valid_after_utc - datetime.now(UTC) > _SERVER_LIFE:
                return key, certificate
        key = ec.generate_private_key(ec.SECP256R1())
        named = f"Quiesce storage endpoint {secrets.token_hex(4)}"
        certificate = (
            _certificate(named, key.public_key(), datetime.now(UTC), _AUTHORITY_LIFE)
            .issuer_name(_name(named))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        # The certificate first: a start cut short between the two begins again.
        certificate_file.unlink(missing_ok=True)
        write_whole(key_file, _key_pem(key))
        write_whole(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate

    def _account_key(self) -> bytes:
        file = self._folder / "account.key"
        with contextlib.suppress(FileNotFoundError):
            try:
                key = base64.b64decode(file.read_bytes().strip(), validate=True)
            except binascii.Error as garbled:
                raise ValueError(f"{file} is not base64") from garbled
            if len(key) < _ACCOUNT_KEY_BYTES:
                raise ValueError(f"{file} is too short")
            return key
        key = secrets.token_bytes(_ACCOUNT_KEY_BYTES)
        write_whole(file, base64.b64encode(key) + b"\n")
        return key


def _certificate(
    named: str, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(named))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(named: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, named[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
