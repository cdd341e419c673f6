"""What two ends of a NIXL connection tell each other.

Over the rendezvous line: the greeting, and for every operation the initiator's `Ask` and the target's
answer. Over TCP, UCX checks neither keys nor bounds at the target, and NIXL tells nobody that there is work
to do: the `Ask` lets the target check, and poll until the operation is over. In band, behind the bytes: a
`Mark`.

A read is a write by the target. UCX emulates reads over TCP, and aborts the process that is read from if the
reader ends in the middle (`ucp_get_req_handler`, UCX of nixl-cu12 1.5.1); writes it does itself, and faster.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from hosts.peer_input import decoded
from hosts.transport.base import Strided, TrafficClass
from hosts.transport.nixl.memory import Memory

VERSION = 2
OperationName = Literal["read", "write", "notify"]


class Hello(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: who connects, in which class, and how to reach its agent."""

    version: int
    address: str
    traffic_class: TrafficClass
    description: bytes


class Welcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: how to reach the agent that serves this connection."""

    description: bytes


class Refused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: why not."""

    reason: str


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a side's bytes go, in the memory of one of its regions. ``description`` is for the other side's
    agent to load, and empty where it has."""

    memory: Memory
    at: Strided
    description: bytes


class Ask(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: operation ``number`` on these bytes, those of a read to be sent ``into`` a place.
    A notification is about none."""

    number: int
    operation: OperationName
    region: int
    at: Strided
    into: Place | None = None


class Dropped(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: operation ``number`` was cancelled. No more of a write comes; of a read, nothing
    more is wanted, and `Ended` when none of it is under way."""

    number: int


class Granted(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: write there; or send the notification."""

    number: int
    place: Place | None = None


class Denied(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: it may not, and why."""

    number: int
    reason: str


class Ended(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: nothing of the dropped read is under way any more."""

    number: int


class Answered(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: what its handler made of a notification. Empty: it took it."""

    number: int
    reason: str


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """In band: bytes of operation ``number`` are in place; if it ``closes``, all of them, and here is the
    notification, if any."""

    number: int
    closes: bool = True
    notification: bytes | None = None


_mark = msgspec.msgpack.Decoder(Mark)


def decode_mark(message: bytes) -> Mark:
    """Raises `ProtocolError` for anything else."""
    return decoded(message, _mark)


Greeting: Any = Welcome | Refused
Request: Any = Ask | Dropped
Answer: Any = Granted | Denied | Ended | Answered
