"""Frames of the TCP transport, and the paths of their payload into and out of registered buffers.

A frame is a fixed header, then a trailer of ``trailer_bytes`` (hello, notification or reason of a
failure), then a payload whose size the header tells. Little-endian:

    magic u16 | version u8 | kind u8 | trailer_bytes u32 | operation u64 | key u64 |
    offset u64 | length u64 | count u64 | stride u64

The initiator sends HELLO (once, first), READ and WRITE; the target answers each operation with one
of DATA (a read's bytes), DONE and FAILED. FAILED for operation 0 fails the whole connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Literal, NamedTuple

import msgspec

from hosts.peer_input import ProtocolError, decoded
from hosts.transport.base import MAX_NOTIFICATION_BYTES, Bytes, Region, Strided

MAGIC = 0xD0A1
VERSION = 1
MAX_PAYLOAD_BYTES = 1 << 40
CHUNK_BYTES = 1024 * 1024
"""A payload is moved in chunks of at most this, so that it can be diverted half-way."""
STAGING_BYTES = 256 * 1024
"""Small pieces are gathered and scattered in batches of this, which stay in a core's cache."""
DIRECT_PIECE_BYTES = 32 * 1024
"""From this size on a piece pays for a system call of its own better than for a copy."""

_HEADER = struct.Struct("<HBBIQQQQQQ")
HEADER_BYTES = _HEADER.size
DISCARDED = memoryview(bytearray(CHUNK_BYTES))  # written by all, read by none


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    READ = 2
    WRITE = 3
    DATA = 4
    DONE = 5
    FAILED = 6


_KINDS = {int(kind): kind for kind in Kind}


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first frame's trailer (msgpack): who connects, and in which class it wants the answers."""

    address: str
    traffic_class: Literal["low", "high"]


_hello = msgspec.msgpack.Decoder(Hello)


def decode_hello(trailer: bytes) -> Hello:
    """The hello in a HELLO frame's trailer; `ProtocolError` if there is none."""
    try:
        return decoded(trailer, _hello)
    except ProtocolError as error:
        raise ProtocolError(f"not a hello: {error}") from error


class Frame(NamedTuple):
    """A decoded header."""

    kind: Kind
    trailer_bytes: int
    operation: int
    key: int
    at: Strided

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow the trailer."""
        return self.at.nbytes if self.kind in (Kind.WRITE, Kind.DATA) else 0


NOWHERE = Strided(0, 0)


def encode(kind: Kind, operation: int, key: int = 0, at: Strided = NOWHERE, trailer: bytes = b"") -> bytes:
    """Header and trailer as they go on the wire."""
    header = _HEADER.pack(
        MAGIC, VERSION, kind, len(trailer), operation, key, at.offset, at.length, at.count, at.stride
    )
    return header + trailer


def decode(header: bytearray) -> Frame:
    """The header in ``header``; `ProtocolError` says what is wrong with it."""
    magic, version, code, trailer_bytes, operation, key, *numbers = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"a frame starts with {magic:#06x}, expected {MAGIC:#06x}")
    if version != VERSION:
        raise ProtocolError(f"the peer speaks version {version}, this is {VERSION}: install the same release")
    kind = _KINDS.get(code)
    if kind is None:
        raise ProtocolError(f"a frame of kind {code}, expected one of {sorted(_KINDS)}")
    if trailer_bytes > MAX_NOTIFICATION_BYTES:
        raise ProtocolError(f"a trailer of {trailer_bytes} bytes, expected at most {MAX_NOTIFICATION_BYTES}")
    frame = Frame(kind, trailer_bytes, operation, key, Strided(*numbers))
    if frame.payload_bytes > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"a payload of {frame.payload_bytes} bytes, expected at most {MAX_PAYLOAD_BYTES}")
    return frame


class Outlet:
    """Payload on its way out: the pieces ``at`` of ``region``, gathered in wire order."""

    def __init__(self, region: Region, at: Strided) -> None:
        self.region = region
        self.at = at

    def chunks(self, staging: Bytes, limit_bytes: int) -> Iterator[memoryview]:
        """Runs of at most ``limit_bytes`` to send; one is done with when the next is asked for."""
        at, view = self.at, self.region.view
        if at.contiguous:
            yield from _chunked(at.run(view).data, limit_bytes)
        elif at.length >= DIRECT_PIECE_BYTES:
            for piece in at.pieces(view):
                yield from _chunked(piece.data, limit_bytes)
        else:
            for batch in _batches(at.pieces(view), limit_bytes):
                staged = staging[: batch.size]
                staged.reshape(batch.shape)[...] = batch
                yield staged.data


class Inlet:
    """Payload on its way in: to the pieces ``at`` of ``region``, or nowhere once it is shut."""

    def __init__(self, region: Region | None, at: Strided) -> None:
        self.region = region
        self.at = at

    def shut(self) -> None:
        """Let not one more byte reach the region; the rest of the payload is received and dropped."""
        self.region = None

    def chunks(self, staging: Bytes) -> Iterator[memoryview]:
        """Runs of bytes to fill; one is full when the next is asked for."""
        left = self.at.nbytes
        for chunk in self._placed(staging):
            yield chunk
            left -= len(chunk)
            if self.region is None:
                break
        while left:
            yield DISCARDED[:left]
            left -= min(left, CHUNK_BYTES)

    def _placed(self, staging: Bytes) -> Iterator[memoryview]:
        if self.region is None:
            return
        at, view = self.at, self.region.view
        if at.contiguous:
            yield from _chunked(at.run(view).data, CHUNK_BYTES)
        elif at.length >= DIRECT_PIECE_BYTES:
            for piece in at.pieces(view):
                yield from _chunked(piece.data, CHUNK_BYTES)
        else:
            for batch in _batches(at.pieces(view), STAGING_BYTES):
                staged = staging[: batch.size]
                yield staged.data
                batch[...] = staged.reshape(batch.shape)


def _chunked(run: memoryview, limit_bytes: int) -> Iterator[memoryview]:
    for first in range(0, len(run), limit_bytes):
        yield run[first : first + limit_bytes]


def _batches(pieces: Bytes, limit_bytes: int) -> Iterator[Bytes]:
    rows = min(limit_bytes, STAGING_BYTES) // pieces.shape[1]
    for first in range(0, len(pieces), rows):
        yield pieces[first : first + rows]
