"""Messages in band: a write with immediate data into the peer's inbox, behind the writes before it.

Two kinds, told apart by the immediate's highest bit; its other bits are the length. A notification lies in a
ring whose next position both ends know. It is answered by an acknowledgement, in the slot of its number:
empty, or the reason why the peer's handler did not take it; the answer frees its part of the ring.

Inbox and outbox have one layout, so that a message is written from the same offset to which it goes:
[ring, RING_BYTES] and [slots, MESSAGES x SLOT_BYTES].
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hosts.transport.base import MAX_NOTIFICATION_BYTES, Bytes

MESSAGES = 32
"""Notifications under way at most."""
RING_BYTES = MAX_NOTIFICATION_BYTES + 64 * 1024
SLOT_BYTES = 512
MAILBOX_BYTES = RING_BYTES + MESSAGES * SLOT_BYTES
RECEIVES = 2 * MESSAGES
"""Notifications and answers that can arrive at one end before it has taken any."""
_ANSWER = 1 << 31
_ALIGNMENT = 64


class Letter(NamedTuple):
    """Bytes of the outbox to be written to the same place in the peer's inbox, with ``immediate``.

    There may be none: the immediate says all.
    """

    offset: int
    nbytes: int
    immediate: int


class Ring:
    """Parts of RING_BYTES in the order of use; the other end, seeing the same lengths, finds the same
    offsets."""

    def __init__(self) -> None:
        self._next = 0
        self._used = 0
        self._parts: deque[int] = deque()

    def place(self, nbytes: int) -> int | None:
        """Offset of the next part, or None while there is no room."""
        rounded = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        wraps = self._next + rounded > RING_BYTES
        offset = 0 if wraps else self._next
        skipped = RING_BYTES - self._next if wraps and self._parts else 0  # of an empty ring, all is free
        if self._used + skipped + rounded > RING_BYTES or len(self._parts) == MESSAGES:
            return None
        self._next = offset + rounded
        self._used += skipped + rounded
        self._parts.append(skipped + rounded)
        return offset

    def free(self) -> None:
        """Give the oldest part back."""
        self._used -= self._parts.popleft()


class Mailbox:
    """One end's part: ``post`` sends a letter, ``deliver`` takes a notification and says why not, or None."""

    def __init__(
        self,
        inbox: Bytes,
        outbox: Bytes,
        post: Callable[[Letter], None],
        deliver: Callable[[bytes], str | None],
    ) -> None:
        self._inbox, self._outbox, self._post, self._deliver = inbox, outbox, post, deliver
        self._sent, self._received = Ring(), Ring()
        self._answers = self._taken = 0
        self._waiting: deque[tuple[bytes, asyncio.Future[str | None]]] = deque()
        self._unanswered: deque[asyncio.Future[str | None]] = deque()

    def send(self, payload: bytes) -> asyncio.Future[str | None]:
        """Send a notification when there is room; the result is the peer's reason for not taking it, or
        None."""
        answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((payload, answered))
        self._send_waiting()
        return answered

    def receive(self, immediate: int) -> None:
        """A message is in the inbox."""
        nbytes = immediate & ~_ANSWER
        if immediate & _ANSWER:
            slot = RING_BYTES + self._answers % MESSAGES * SLOT_BYTES
            self._answers += 1
            self._sent.free()
            answered = self._unanswered.popleft()
            if not answered.done():
                reason = self._inbox[slot : slot + nbytes].tobytes().decode(errors="replace")
                answered.set_result(reason or None)
            self._send_waiting()
        else:
            offset = self._received.place(nbytes)
            assert offset is not None, "the sender waits for room"
            refused = self._deliver(self._inbox[offset : offset + nbytes].tobytes())
            self._received.free()
            self._answer(refused or "")

    @property
    def waits(self) -> bool:
        """Whether an answer is due."""
        return bool(self._unanswered)

    def fail(self, error: Exception) -> None:
        """The connection is lost: nothing will be answered."""
        for answered in [*self._unanswered, *(answered for _, answered in self._waiting)]:
            if not answered.done():
                answered.set_exception(error)
        self._waiting.clear()
        self._unanswered.clear()

    def _send_waiting(self) -> None:
        while self._waiting:
            payload, answered = self._waiting[0]
            offset = self._sent.place(len(payload))
            if offset is None:
                return
            self._waiting.popleft()
            self._unanswered.append(answered)
            self._outbox[offset : offset + len(payload)] = np.frombuffer(payload, np.uint8)
            self._post(Letter(offset, len(payload), len(payload)))

    def _answer(self, reason: str) -> None:
        text = reason.encode()[:SLOT_BYTES]
        slot = RING_BYTES + self._taken % MESSAGES * SLOT_BYTES
        self._taken += 1
        self._outbox[slot : slot + len(text)] = np.frombuffer(text, np.uint8)
        self._post(Letter(slot, len(text), _ANSWER | len(text)))
