"""Keys between the host and one VM's agent.

Each VM has a key and a certificate that the host made for it. Protected settings are encrypted to
that certificate; the agent gets the key itself inside `Certificates`, encrypted to the transport
certificate that it sends along (`x-ms-guest-agent-public-x509-cert`), which it makes anew for
every VM. Both are CMS EnvelopedData (RFC 5652) with RSA and AES-128-CBC, which every OpenSSL since
0.9.8 reads; the agent decrypts with `openssl cms -decrypt | openssl pkcs12 -password pass:`.
Source: WALinuxAgent, common/protocol/goal_state.py (Certificates), common/utils/cryptutil.py.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12
from cryptography.x509.oid import NameOID

from quiesce.model.failure import AgentFailure, Evidence

_KEY_BITS = 2048
_VALID = timedelta(days=730)
_RENEWED_BEFORE = timedelta(days=60)
_SKEW = timedelta(days=2)
"""Certificates begin to be valid that long ago: a guest's clock may be behind."""
_MAX_HEADER_CHARS = 16_384
_KEY_BITS_ACCEPTED = range(2048, 8193)
_UNUSABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    binascii.Error,
    x509.InvalidVersion,
)
"""What a certificate that cannot be used raises."""


@dataclass(frozen=True, slots=True)
class VmIdentity:
    """The key pair of one VM, in PEM. The key is a secret of the host and of that VM."""

    key_pem: str
    certificate_pem: str

    @classmethod
    def create(cls, vm: str, now: datetime) -> VmIdentity:
        """A new key pair; takes some 50 ms."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, vm[:64] or "vm")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _VALID)
            .sign(key, hashes.SHA256())
        )
        return cls(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
            certificate.public_bytes(serialization.Encoding.PEM).decode(),
        )

    @property
    def thumbprint(self) -> str:
        """As the agent names the files that it keeps them in: SHA-1, upper-case hexadecimal."""
        return self._certificate().fingerprint(hashes.SHA1()).hex().upper()

    def expires_soon(self, now: datetime) -> bool:
        return self._certificate().not_valid_after_utc - _RENEWED_BEFORE < now

    def sealed(self, content: bytes) -> str:
        """`content` for this VM alone: CMS EnvelopedData, DER, base64 on one line."""
        return base64.b64encode(_enveloped(content, self._certificate())).decode()

    def parcel(self, transport: x509.Certificate) -> str:
        """This key pair for the agent that holds the key of `transport`: PKCS#12 with an empty
        password in CMS EnvelopedData, base64 in lines."""
        bag = pkcs12.serialize_key_and_certificates(
            None, self._key(), self._certificate(), None, serialization.NoEncryption()
        )
        return base64.encodebytes(_enveloped(bag, transport)).decode()

    def require_usable(self) -> None:
        """:raise ValueError, TypeError: no certificate, or no key"""
        self._certificate()
        self._key()

    def _key(self) -> rsa.RSAPrivateKey:
        key = serialization.load_pem_private_key(
            self.key_pem.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("the key of a VM is an RSA key")
        return key

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_pem.encode())


def transport_certificate(header: str | None) -> x509.Certificate:
    """What the agent sends in `x-ms-guest-agent-public-x509-cert`: base64 of DER on one line.

    :raise AgentFailure: agent.certificate
    """
    try:
        if not header:
            raise ValueError("no certificate was sent")
        if len(header) > _MAX_HEADER_CHARS:
            raise ValueError("the certificate is too long")
        certificate = x509.load_der_x509_certificate(base64.b64decode(header, validate=True))
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in _KEY_BITS_ACCEPTED:
            raise ValueError("the certificate's key is not RSA of 2048 to 8192 bits")
        _enveloped(b"", certificate)
    except _UNUSABLE as inner:
        raise AgentFailure(
            "agent.certificate",
            "The agent's transport certificate cannot be used.",
            evidence=[Evidence(str(inner)[:200], "x-ms-guest-agent-public-x509-cert")],
        ) from inner
    return certificate


def _enveloped(content: bytes, recipient: x509.Certificate) -> bytes:
    return (
        pkcs7.PKCS7EnvelopeBuilder()
        .set_data(content)
        .add_recipient(recipient)
        .encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
    )
