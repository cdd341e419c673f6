"""What an agent proves itself to the control node with, and the other way round: TLS 1.3, both sides.

The control node makes a certificate authority for each run. An agent reads its credentials from its standard
input, so that they are in nobody's arguments, environment or files.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

CONTROL_NAME = "control.dualpath"
"""In the control node's certificate, and what agents expect there, whatever its address is."""


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one agent in one run: where the control node is, and PEM texts (RFC 7468).

    ``certificate`` is for the host ``host`` (its common name) by the authority ``authority``.
    """

    control: str
    host: str
    authority: str
    certificate: str
    private_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.host!r})"


def decode_credentials(document: bytes) -> Credentials:
    """Raises msgspec.DecodeError for anything else."""
    return msgspec.json.decode(document, type=Credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """An agent's end: TLS 1.3 with a control node of this run, or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, credentials.authority, credentials.certificate, credentials.private_key)
    return context


def server_context(authority: str, certificate: str, private_key: str) -> ssl.SSLContext:
    """The control node's end: TLS 1.3 with those that have a certificate of this run, or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, authority, certificate, private_key)
    return context


def _load(context: ssl.SSLContext, authority: str, certificate: str, private_key: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    with _memory_file(certificate + private_key) as path:
        context.load_cert_chain(path)


@contextmanager
def _memory_file(content: str) -> Iterator[str]:
    """A path for what only reads files; nothing of it reaches a disk (memfd_create(2))."""
    with os.fdopen(os.memfd_create("credentials"), "w") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
