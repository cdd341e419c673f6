"""What two ends of a NIXL connection tell each other.

Over the rendezvous line: the greeting, and for every operation the initiator's `Ask` and the target's answer.
Over TCP, UCX checks neither keys nor bounds at the target, and NIXL tells no target that it has work to do:
the `Ask` lets the target check, and poll until the operation is over. In band, behind an operation's bytes: a
`Closing`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from hosts.transport.base import Strided, TrafficClass

VERSION = 1
OperationName = Literal["read", "write", "notify"]


class Hello(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: who connects, and in which class."""

    version: int
    address: str
    traffic_class: TrafficClass


class Welcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: how to reach the agent that serves this connection."""

    description: bytes


class Refused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: why not."""

    reason: str


class Ask(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: may operation ``number`` touch these bytes? A notification touches none."""

    number: int
    operation: OperationName
    region: int
    at: Strided


class Dropped(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Initiator to target: operation ``number`` was cancelled, and no byte of it is under way any more."""

    number: int


class Granted(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: it may. The region begins at ``address``; ``description`` is for the initiator's
    agent to load, and empty where it has."""

    number: int
    address: int = 0
    description: bytes = b""


class Denied(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: it may not, and why."""

    number: int
    reason: str


class Answered(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Target to initiator: what its handler made of a notification. Empty: it took it."""

    number: int
    reason: str


class Closing(msgspec.Struct, frozen=True, array_like=True):
    """In band: the bytes of operation ``number`` are in place, and its notification, if any."""

    number: int
    notification: bytes | None = None


Greeting: Any = Welcome | Refused
Request: Any = Ask | Dropped
Answer: Any = Granted | Denied | Answered
