"""Proof that both ends of a connection are of one run: challenge and response by HMAC-SHA256 (RFC 2104).

Both have the run's key, which is never sent. Each answers with an HMAC over both ends' nonces, which are
fresh, so that a recorded proof is worth nothing; over its own role, so that no proof can be sent back to who
made it; and over the address that was dialled, so that a proof for one host is none for another. In order:

    target     magic (8 bytes) | its nonce (32)
    initiator  its nonce (32) | its proof (32)
    target     its proof (32), or zeros if it refuses

An empty key proves only that the peer has none either.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
from typing import Literal

from hosts.peer_input import ProtocolError

MAGIC = b"dualpath"
NONCE_BYTES = 32
PROOF_BYTES = 32
REFUSAL = bytes(PROOF_BYTES)
OTHER_KEY = "it does not have this run's key: is it another run's, or a stranger?"


def proof(
    key: bytes,
    role: Literal["initiator", "target"],
    address: str,
    initiator_nonce: bytes,
    target_nonce: bytes,
) -> bytes:
    """What ``role`` answers; ``address`` is the target's."""
    said = role.encode() + b"\0" + address.encode() + b"\0" + initiator_nonce + target_nonce
    return hmac.digest(key, said, "sha256")


async def prove_to_target(sock: socket.socket, key: bytes, address: str) -> None:
    """The initiator's part, on a connected non-blocking socket, of which no byte more is taken.

    Raises `ProtocolError` if the peer is not of this run or says that this end is not, EOFError or OSError if
    the connection ends.
    """
    challenge = await _receive(sock, len(MAGIC) + NONCE_BYTES)
    if not challenge.startswith(MAGIC):
        raise ProtocolError(f"it begins with {challenge[: len(MAGIC)]!r}, expected {MAGIC!r}")
    here, there = secrets.token_bytes(NONCE_BYTES), challenge[len(MAGIC) :]
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, here + proof(key, "initiator", address, here, there))
    answer = await _receive(sock, PROOF_BYTES)
    if answer == REFUSAL:
        raise ProtocolError("it refused: this end does not have its run's key")
    if not hmac.compare_digest(answer, proof(key, "target", address, here, there)):
        raise ProtocolError(OTHER_KEY)


async def prove_to_initiator(sock: socket.socket, key: bytes, address: str) -> None:
    """The target's part, listening at ``address``; like `prove_to_target`."""
    loop = asyncio.get_running_loop()
    here = secrets.token_bytes(NONCE_BYTES)
    await loop.sock_sendall(sock, MAGIC + here)
    answer = await _receive(sock, NONCE_BYTES + PROOF_BYTES)
    there, found = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
    if not hmac.compare_digest(found, proof(key, "initiator", address, there, here)):
        await loop.sock_sendall(sock, REFUSAL)
        raise ProtocolError(OTHER_KEY)
    await loop.sock_sendall(sock, proof(key, "target", address, there, here))


async def _receive(sock: socket.socket, nbytes: int) -> bytes:
    received = b""
    while len(received) < nbytes:
        some = await asyncio.get_running_loop().sock_recv(sock, nbytes - len(received))
        if not some:
            raise EOFError("it closed the connection before both ends had proved themselves")
        received += some
    return received
