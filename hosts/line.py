"""A stream of whole messages between two processes.

A message is a 4-byte little-endian length and a MessagePack value (msgpack.org). TLS, where there is any, is
below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar

import msgspec

from hosts.peer_input import ProtocolError, decoded

_LENGTH_BYTES = 4
_T = TypeVar("_T")


class Line:
    """One end of such a stream; ``max_bytes`` is the longest message that is taken from the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
        self._reader, self._writer, self._max_bytes = reader, writer, max_bytes
        name = writer.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if name else "?"

    def post(self, message: object) -> None:
        """Send any value that msgspec encodes, without waiting. On a lost connection it is gone."""
        payload = msgspec.msgpack.encode(message)
        self._writer.write(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)

    async def send(self, message: object) -> None:
        """Send any value that msgspec encodes; OSError if the connection is lost."""
        self.post(message)
        await self._writer.drain()

    async def receive(self, kind: type[_T]) -> _T:
        """The next message, which has to be a ``kind``.

        Raises EOFError at the connection's end, OSError if it is lost, `ProtocolError` for anything else.
        """
        length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "little")
        if length > self._max_bytes:
            raise ProtocolError(f"a message of {length} bytes, expected at most {self._max_bytes}")
        payload = await self._reader.readexactly(length)
        message: _T = decoded(payload, _decoder(kind))  # type: ignore[arg-type] # a class can be hashed
        return message

    def close(self) -> None:
        """End the connection at once; the peer sees its end."""
        self._writer.close()


@cache
def _decoder(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)
