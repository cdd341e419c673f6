"""The C structures behind pyverbs' objects, as far as bulk posting and event loops need them.

pyverbs posts one request a call and waits for events in a blocking one; what it wraps has a function that
takes a whole list and a descriptor that an event loop can watch. Both are part of the library's binary
interface: <infiniband/verbs.h> reaches them from inline functions that are compiled into every program.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy as np

_POINTER = ctypes.c_void_p
_POST_SEND_AT = 208
"""Offset of ``ops.post_send`` in ``ibv_context``: the device pointer, then 25 operations."""
_RC = 2
PostSend = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.POINTER(_POINTER))


class _QueuePair(ctypes.Structure):
    _fields_ = (
        ("context", _POINTER),
        ("qp_context", _POINTER),
        ("pd", _POINTER),
        ("send_cq", _POINTER),
        ("recv_cq", _POINTER),
        ("srq", _POINTER),
        ("handle", ctypes.c_uint32),
        ("qp_num", ctypes.c_uint32),
        ("state", ctypes.c_uint32),
        ("qp_type", ctypes.c_uint32),
    )


class _CompletionQueue(ctypes.Structure):
    _fields_ = (("context", _POINTER), ("channel", _POINTER))


class _CompletionChannel(ctypes.Structure):
    _fields_ = (("context", _POINTER), ("fd", ctypes.c_int))


class StructureError(Exception):
    """A pyverbs object does not hold what it is expected to."""


def poster(qp: Any) -> Callable[[int], int]:
    """ibv_post_send(3) for a pyverbs queue pair: takes the address of a list's first request, returns an
    errno."""
    address, queue_pair = _located(qp)
    function = ctypes.c_void_p.from_address(queue_pair.context + _POST_SEND_AT).value
    assert function, "every provider posts"
    post_send, failed = PostSend(function), _POINTER()
    reference = ctypes.byref(failed)
    return lambda first: post_send(address, first, reference)


def event_descriptor(qp: Any) -> int:
    """The descriptor that becomes readable when the completion channel of a queue pair has an event."""
    completion_queue = _CompletionQueue.from_address(_located(qp)[1].send_cq)
    return int(_CompletionChannel.from_address(completion_queue.channel).fd)


def _located(qp: Any) -> tuple[int, _QueuePair]:
    """The ``ibv_qp`` that a pyverbs object wraps, and where it is.

    pyverbs does not hand the pointer out. It is one of the words that the object consists of: the one that
    points to a reliable-connection queue pair of that number. Memory is read by way of the kernel, which
    answers with an error where a word is no pointer.
    """
    words = np.frombuffer(ctypes.string_at(id(qp), type(qp).__basicsize__), np.uint64)
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for word in words.tolist():
            try:
                found = os.pread(memory, ctypes.sizeof(_QueuePair), word)
            except (OSError, OverflowError):
                continue
            if len(found) == ctypes.sizeof(_QueuePair):
                queue_pair = _QueuePair.from_buffer_copy(found)
                if (queue_pair.qp_num, queue_pair.qp_type) == (qp.qp_num, _RC) and queue_pair.context:
                    return word, queue_pair
    finally:
        os.close(memory)
    raise StructureError(
        "no ibv_qp in pyverbs' queue pair object: this pyverbs is laid out differently; report its version"
    )
