"""Feeds the decoders of what comes over networks with messages that are almost right, and says what breaks.

    .venv/bin/python tools/fuzz_wire.py [--seconds 60] [--seed 1] [--decoder control in-band tcp]

Valid messages of every kind are made from their types and mutated: as values (other types, extreme numbers,
parts missing, doubled or nested without end) and as bytes. A decoder may take one, or refuse it as it
documents; the TCP transport besides may change nothing outside the region that it offers. Anything else is a
finding: it is printed with the input, and the exit status is 1. A seed makes the same inputs again, but for
the region's key.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect

from hosts.config import TransportConfig
from hosts.line import Line
from hosts.peer_input import ProtocolError
from hosts.protocol import Envelope, InBand, decode_in_band
from hosts.transport.base import Strided
from hosts.transport.entrance import dial
from hosts.transport.tcp import TcpTransport
from hosts.transport.wire import Hello, Kind, encode

REGION_BYTES = 4096
NUMBERS = [0, 1, -1, 2, 8, 127, 128, 4096, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
ATOMS = [*NUMBERS, 0.5, float("nan"), float("inf"), True, None, "", "low", "é\0", b"", b"\xff\xfe", [], {}]
BATCH = 100
"""Inputs between two looks at the clock."""


class FindingError(Exception):
    """A decoder did what it may not; the message has the input."""


# --- valid messages ----------------------------------------------------------------------------


def example(kind: inspect.Type, rng: random.Random) -> Any:
    """A value of that type, as MessagePack has it."""
    match kind:
        case inspect.IntType():
            return rng.choice([0, 1, 7, 4096])
        case inspect.FloatType():
            return rng.random()
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.StrType():
            return rng.choice(["", "p0", "127.0.0.1:7"])
        case inspect.BytesType():
            return rng.randbytes(rng.randrange(40))
        case inspect.LiteralType():
            return rng.choice(kind.values)
        case inspect.UnionType():
            return example(rng.choice(kind.types), rng)
        case inspect.VarTupleType() | inspect.ListType():
            return [example(kind.item_type, rng) for _ in range(rng.randrange(3))]
        case inspect.TupleType():
            return [example(item, rng) for item in kind.item_types]
        case inspect.DictType():
            return {
                example(kind.key_type, rng): example(kind.value_type, rng) for _ in range(rng.randrange(3))
            }
        case inspect.StructType():
            values = {field.encode_name: example(field.type, rng) for field in kind.fields}
            if kind.array_like:
                return list(values.values())
            return values if kind.tag_field is None else {kind.tag_field: kind.tag, **values}
    assert isinstance(kind, inspect.NoneType), kind
    return None


# --- mutations ---------------------------------------------------------------------------------


def mutated(value: Any, rng: random.Random) -> Any:
    """The value with one part of it changed."""
    if isinstance(value, list | dict) and value and rng.random() < 0.8:
        parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        at = rng.randrange(len(parts))
        key, part = parts[at]
        match rng.randrange(5):
            case 0:
                del parts[at]
            case 1:
                parts.append((f"{key}x", part))
            case _:
                parts[at] = (key, mutated(part, rng))
        return dict(parts) if isinstance(value, dict) else [part for _, part in parts]
    return rng.choice(ATOMS)


def packed(value: Any, rng: random.Random) -> bytes:
    """As MessagePack; now and then with something nested very deeply at its end."""
    payload = bytearray(msgspec.msgpack.encode(value))
    if payload[0] in range(0x90, 0x9F) and rng.random() < 0.05:  # an array of up to 14: one more element
        payload[0] += 1
        payload += b"\x91" * rng.choice([10, 1000, 100_000]) + b"\xc0"
    return bytes(payload)


def torn(payload: bytes, rng: random.Random) -> bytes:
    """Some bytes of it changed, missing or doubled."""
    changed = bytearray(payload)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 8])):
        if changed:
            at = rng.randrange(len(changed))
            match rng.randrange(4):
                case 0:
                    changed[at] = rng.choice([0, 0x7F, 0x80, 0xC1, 0xDD, 0xDF, 0xFF])
                case 1:
                    changed[at] ^= 1 << rng.randrange(8)
                case 2:
                    del changed[at : at + rng.choice([1, 4, 1000])]
                case _:
                    changed[at:at] = changed[at : at + rng.choice([1, 8])]
    return bytes(changed)


def message(kind: Any, rng: random.Random) -> bytes:
    """Of such a type, almost."""
    value = example(_type_info(kind), rng)
    for _ in range(rng.choice([0, 1, 1, 2])):
        value = mutated(value, rng)
    return torn(packed(value, rng), rng)


_type_info = cache(inspect.type_info)


# --- decoders ----------------------------------------------------------------------------------


def fuzz_in_band(rng: random.Random) -> Iterator[None]:
    """`hosts.protocol.decode_in_band`."""
    while True:
        payload = message(InBand, rng)
        try:
            decode_in_band(payload)
        except ProtocolError:
            pass
        except BaseException as error:
            raise FindingError(f"{error!r} on {payload!r}") from error
        yield


def fuzz_control(rng: random.Random) -> Iterator[None]:
    """`hosts.line.Line`, a stream of envelopes to its end."""

    class Writer:
        def get_extra_info(self, _: str) -> None:
            return None

    async def receive(sent: bytes) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(sent)
        reader.feed_eof()
        line = Line(reader, Writer(), 1 << 20)  # type: ignore[arg-type] # it only receives
        while True:
            await line.receive(Envelope)

    with asyncio.Runner() as runner:
        while True:
            sent = b""
            for _ in range(rng.randrange(1, 4)):
                payload = message(Envelope, rng)
                length = rng.choice(NUMBERS) % 2**32 if rng.random() < 0.1 else len(payload)
                sent += length.to_bytes(4, "little") + payload
            try:
                runner.run(receive(sent))
            except (ProtocolError, EOFError):
                pass
            except BaseException as error:
                raise FindingError(f"{error!r} on {sent!r}") from error
            yield


def fuzz_tcp(rng: random.Random) -> Iterator[None]:
    """The target's end of the TCP transport behind its entrance: a region with other memory around it."""
    failures: list[dict[str, Any]] = []
    config = TransportConfig(kind="tcp")

    async def serve(sent: bytes, transport: TcpTransport) -> None:
        with await dial(transport.address, config) as sock:
            answered = asyncio.create_task(drained(sock))
            with suppress(OSError):  # refused before all was sent
                await asyncio.get_running_loop().sock_sendall(sock, sent)
                sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(10):
                await answered

    async def drained(sock: socket.socket) -> None:
        with suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
                pass

    with asyncio.Runner() as runner:
        transport = runner.run(TcpTransport.open(config))
        transport.on_notification(lambda _: None)
        runner.get_loop().set_exception_handler(lambda _, context: failures.append(context))
        memory = np.zeros(3 * REGION_BYTES, np.uint8)
        region = transport.register(memory[REGION_BYTES : 2 * REGION_BYTES])
        try:
            while True:
                sent = conversation(region.remote.key, rng)
                try:
                    runner.run(serve(sent, transport))
                except BaseException as error:
                    raise FindingError(f"{error!r} on {sent!r}") from error
                if failures:
                    raise FindingError(f"{failures} on {sent!r}")
                if memory[:REGION_BYTES].any() or memory[2 * REGION_BYTES :].any():
                    raise FindingError(f"memory outside of the region written by {sent!r}")
                yield
        finally:
            runner.run(transport.close())


def conversation(key: int, rng: random.Random) -> bytes:
    """What an initiator sends, almost: a hello and a few operations on a region with that key."""
    hello = msgspec.msgpack.encode(Hello("127.0.0.1:7", "low")) if rng.random() < 0.9 else message(Hello, rng)
    sent = encode(Kind.HELLO, 1, trailer=hello)
    for number in range(2, rng.randrange(3, 7)):
        kind = rng.choice([Kind.READ, Kind.WRITE]) if rng.random() < 0.9 else rng.choice(list(Kind))
        at = [rng.randrange(REGION_BYTES), rng.randrange(1, 64), rng.randrange(1, 9), rng.randrange(1, 512)]
        if rng.random() < 0.5:
            at[rng.randrange(4)] = rng.choice(NUMBERS) % 2**64
        where = Strided(*at)
        trailer = rng.randbytes(rng.choice([0, 0, 1, 30]))
        sent += encode(kind, number, key if rng.random() < 0.9 else rng.getrandbits(63), where, trailer)
        if kind is Kind.WRITE:
            sent += b"\xaa" * min(where.nbytes, 1 << 16)
    return torn(sent, rng) if rng.random() < 0.5 else sent


DECODERS: dict[str, Callable[[random.Random], Iterator[None]]] = {
    "control": fuzz_control,
    "in-band": fuzz_in_band,
    "tcp": fuzz_tcp,
}


def main() -> int:
    """Entry point; a line for each decoder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for all decoders together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decoder", nargs="+", choices=list(DECODERS), default=list(DECODERS))
    arguments = parser.parse_args()
    logging.disable()  # every refusal is logged
    found = False
    for name in arguments.decoder:
        executions, ends_at = 0, time.monotonic() + arguments.seconds / len(arguments.decoder)
        inputs = DECODERS[name](random.Random(arguments.seed))
        try:
            while time.monotonic() < ends_at:
                for _ in range(BATCH):
                    next(inputs)
                    executions += 1
            finding = "nothing found"
        except FindingError as error:
            found, finding = True, f"FOUND {error}"
        sys.stdout.write(f"{name}: {executions} executions, seed {arguments.seed}: {finding}\n")
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
