"""Messages in band: two mailboxes joined by a queue of letters, as a reliable connection delivers them."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hosts.transport.base import MAX_NOTIFICATION_BYTES
from hosts.transport.verbs.mailbox import MAILBOX_BYTES, MESSAGES, RECEIVES, Letter, Mailbox


class Pair:
    """A sender and a receiver; letters wait until `carry` copies them over."""

    def __init__(self, refuse: bytes | None = None) -> None:
        self.taken: list[bytes] = []
        self.under_way: deque[tuple[Mailbox, np.ndarray, np.ndarray, Letter]] = deque()
        boxes = np.zeros((4, MAILBOX_BYTES), np.uint8)

        def deliver(payload: bytes) -> str | None:
            self.taken.append(payload)
            return "no" * 400 if payload == refuse else None

        self.sender = Mailbox(
            boxes[0], boxes[1], lambda letter: self.post(self.receiver, 1, 2, letter), deliver
        )
        self.receiver = Mailbox(
            boxes[2], boxes[3], lambda letter: self.post(self.sender, 3, 0, letter), deliver
        )
        self._boxes = boxes

    def post(self, to: Mailbox, source: int, target: int, letter: Letter) -> None:
        self.under_way.append((to, self._boxes[source], self._boxes[target], letter))
        assert sum(entry[0] is to for entry in self.under_way) <= RECEIVES

    def carry(self, most: int = 10**9) -> None:
        while self.under_way and most:
            to, source, target, letter = self.under_way.popleft()
            part = slice(letter.offset, letter.offset + letter.nbytes)
            target[part] = source[part]
            to.receive(letter.immediate)
            most -= 1


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 63, 64, 5_000, 300_000, MAX_NOTIFICATION_BYTES]), max_size=80),
    steps=st.integers(1, 40),
)
def test_everything_arrives_once_in_order_whatever_waits_for_room(lengths: list[int], steps: int) -> None:
    async def run() -> None:
        pair = Pair()
        payloads = [bytes([index % 251]) * length for index, length in enumerate(lengths)]
        answers = []
        for payload in payloads:
            answers.append(pair.sender.send(payload))
            pair.carry(most=steps % 3)
        pair.carry()
        assert pair.taken == payloads
        assert [await answer for answer in answers] == [None] * len(payloads)
        assert not pair.sender.waits

    asyncio.run(run())


def test_a_reason_comes_back_cut_to_its_slot() -> None:
    async def run() -> None:
        pair = Pair(refuse=b"x")
        answers = [pair.sender.send(payload) for payload in (b"a", b"x", b"b")]
        pair.carry()
        assert [await answer for answer in answers] == [None, ("no" * 400)[:512], None]

    asyncio.run(run())


def test_only_so_many_are_under_way() -> None:
    async def run() -> None:
        pair = Pair()
        for _ in range(3 * MESSAGES):
            pair.sender.send(b"x")
        assert len(pair.under_way) == MESSAGES
        pair.carry()
        assert len(pair.taken) == 3 * MESSAGES

    asyncio.run(run())


def test_what_is_unanswered_when_the_connection_is_lost_fails() -> None:
    async def run() -> None:
        pair = Pair()
        answers = [pair.sender.send(b"x" * 400_000) for _ in range(5)]
        pair.sender.fail(OSError("lost"))
        for answer in answers:
            with pytest.raises(OSError, match="lost"):
                await answer

    asyncio.run(run())
