"""A certificate authority for one run: made when it starts, gone with it, never on a disk."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hosts.credentials import CONTROL_NAME, Credentials, server_context

_VALID = timedelta(days=7)
"""Before and after now: hosts' clocks may be wrong, and that is for preflight to say."""


class RunAuthority:
    """Issues certificates for the control node and the agents of one run (RFC 5280)."""

    def __init__(self, run_id: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"dualpath run {run_id}")
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._pem = _pem(self._certificate)

    def server_context(self) -> ssl.SSLContext:
        """The control node's end of the control streams."""
        certificate, key = self._issue(CONTROL_NAME, ExtendedKeyUsageOID.SERVER_AUTH)
        return server_context(self._pem, certificate, key)

    def credentials(self, host: str, control_address: str) -> Credentials:
        """What the agent on ``host`` is started with."""
        certificate, key = self._issue(host, ExtendedKeyUsageOID.CLIENT_AUTH)
        return Credentials(control_address, host, self._pem, certificate, key)

    def _issue(self, common_name: str, usage: x509.ObjectIdentifier) -> tuple[str, str]:
        """A certificate and its private key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(_name(common_name), key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate), _private_pem(key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _VALID)
            .not_valid_after(now + _VALID)
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
