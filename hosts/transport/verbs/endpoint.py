"""One end of a connection: its queue pairs, the completion queue they share, and what its completions
mean."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ, CompChannel
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR

from hosts.config import ClassMark
from hosts.transport.base import RemoteRegion
from hosts.transport.verbs.device import Device
from hosts.transport.verbs.port import PortError
from hosts.transport.verbs.send_queue import SendQueue
from hosts.transport.verbs.structs import event_descriptor, poster
from hosts.transport.verbs.words import FLUSHED, SUCCESS, status_in_words

_RC = 2  # enum ibv_qp_type
_LOCAL_WRITE, _REMOTE_WRITE, _REMOTE_READ = 1, 2, 4  # enum ibv_access_flags
_RECEIVED_WITH_IMMEDIATE = 129  # IBV_WC_RECV_RDMA_WITH_IMM
_PACKET_NUMBERS = 1 << 24
_POLL_AT_ONCE = 64
_RNR_TIMER = 12  # 0.64 ms (InfiniBand table 45)
_RETRIES = 7


class QueuePairAddress(msgspec.Struct, frozen=True, array_like=True):
    """What a peer's queue pair has to know of this one."""

    number: int
    first_packet: int


class EndpointAddress(msgspec.Struct, frozen=True):
    """What a peer has to know to connect; ``inbox`` is where it writes messages to."""

    gid: str
    lid: int
    mtu_bytes: int
    queue_pairs: tuple[QueuePairAddress, ...]
    inbox: RemoteRegion


class Endpoint:
    """``on_message`` gets the immediate data of the peer's messages, in their order; ``on_lost`` why it
    ended.

    Raises pyverbs' error where the device refuses.
    """

    def __init__(
        self,
        device: Device,
        peer: str,
        *,
        messages: int,
        on_message: Callable[[int], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.peer, self.lost, self.completed_at = peer, "", 0.0
        self._device, self._on_message, self._on_lost = device, on_message, on_lost
        self._loop = asyncio.get_running_loop()
        config = device.config
        with ExitStack() as resources:
            self._channel = resources.enter_context(CompChannel(device.context))
            completions = config.queue_pairs * (device.send_depth + messages)
            self._completions = CQ(device.context, completions, None, self._channel, 0)
            resources.callback(self._completions.close)
            self._pairs = [self._queue_pair(resources, messages) for _ in range(config.queue_pairs)]
            self._first_packets = [secrets.randbelow(_PACKET_NUMBERS) for _ in self._pairs]
            self.queues = [
                SendQueue(peer, device.send_depth, device.max_entries, poster(pair), self.lose)
                for pair in self._pairs
            ]
            self._queue_of = {
                pair.qp_num: queue for pair, queue in zip(self._pairs, self.queues, strict=True)
            }
            self._pair_of = {pair.qp_num: pair for pair in self._pairs}
            self._events = event_descriptor(self._pairs[0])
            self._resources = resources.pop_all()
        self._nowhere = RecvWR(num_sge=1, sg=[SGE(device.nowhere.base, 0, device.nowhere.lkey)])
        self._messages = messages

    def _queue_pair(self, resources: ExitStack, messages: int) -> Any:
        config = self._device.config
        capacity = QPCap(
            max_send_wr=self._device.send_depth,
            max_recv_wr=messages,
            max_send_sge=self._device.max_entries,
            max_recv_sge=1,
            max_inline_data=config.inline_bytes,
        )
        attributes = QPInitAttr(
            qp_type=_RC, scq=self._completions, rcq=self._completions, cap=capacity, sq_sig_all=0
        )
        pair = QP(self._device.domain, attributes)
        resources.callback(pair.close)
        return pair

    def address(self, inbox: RemoteRegion) -> EndpointAddress:
        """To be sent to the peer."""
        port = self._device.port
        pairs = (
            QueuePairAddress(pair.qp_num, first)
            for pair, first in zip(self._pairs, self._first_packets, strict=True)
        )
        return EndpointAddress(port.gid, port.lid, self._device.mtu_bytes, tuple(pairs), inbox)

    def connect(self, peer: EndpointAddress, mark: ClassMark) -> None:
        """Bring the queue pairs to ready-to-send towards ``peer``'s, in the class that ``mark`` stands
        for. Raises `PortError` where there is no way from the one port to the other."""
        port = self._device.port
        for pair, first, remote in zip(self._pairs, self._first_packets, peer.queue_pairs, strict=True):
            try:
                pair.to_rts(self._attributes(first, remote, peer, mark))
            except PyverbsRDMAError as error:
                raise PortError(
                    f"{port}, GID {port.gid_index} ({port.gid}): no way to the peer's GID {peer.gid} "
                    f"({error}); expected GIDs of one network and one RoCE version: set gid_index, or the "
                    "interfaces' addresses"
                ) from error
            for _ in range(self._messages):
                pair.post_recv(self._nowhere)
        self._completions.req_notify()
        self._loop.add_reader(self._events, self._on_event)

    def _attributes(
        self, first_packet: int, remote: QueuePairAddress, peer: EndpointAddress, mark: ClassMark
    ) -> Any:
        """ibv_modify_qp(3) for all three transitions."""
        device, port = self._device, self._device.port
        route = GlobalRoute(
            dgid=GID(peer.gid),
            sgid_index=port.gid_index,
            hop_limit=64,
            traffic_class=mark.traffic_class,
        )
        attributes = QPAttr(port_num=port.number, path_mtu=device.mtu_code(peer.mtu_bytes))
        attributes.ah_attr = AHAttr(
            dlid=peer.lid, sl=mark.service_level, is_global=1, port_num=port.number, gr=route
        )
        attributes.qp_access_flags = _LOCAL_WRITE | _REMOTE_WRITE | _REMOTE_READ
        attributes.dest_qp_num, attributes.rq_psn, attributes.sq_psn = (
            remote.number,
            remote.first_packet,
            first_packet,
        )
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = device.max_reads
        attributes.min_rnr_timer = _RNR_TIMER
        attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = (
            device.timeout_code,
            _RETRIES,
            _RETRIES,
        )
        return attributes

    def poll(self) -> bool:
        """Take what has completed; whether anything had."""
        taken = False
        while not self.lost:
            count, completions = self._completions.poll(_POLL_AT_ONCE)
            for completion in completions:
                self._take(completion)
            if count:
                taken, self.completed_at = True, self._loop.time()
            if count < _POLL_AT_ONCE:
                break
        return taken

    def _on_event(self) -> None:
        self._channel.get_cq_event(self._completions)
        self._completions.ack_events(1)
        self._completions.req_notify()  # before polling: what completes from here on raises the next event
        self.poll()

    def _take(self, completion: Any) -> None:
        if self.lost:
            return
        queue = self._queue_of[completion.qp_num]
        if completion.status != SUCCESS:
            reason = status_in_words(completion.status, self._device.port)
            if completion.status != FLUSHED:
                queue.failed(completion.wr_id, reason)
            self.lose(reason)
        elif completion.opcode == _RECEIVED_WITH_IMMEDIATE:
            self._pair_of[completion.qp_num].post_recv(self._nowhere)
            self._on_message(socket.ntohl(completion.imm_data))
        else:
            queue.completed()

    def lose(self, reason: str) -> None:
        """End the connection: everything outstanding fails for ``reason``, and touches no memory any more."""
        if self.lost:
            return
        self.lost = reason
        self._loop.remove_reader(self._events)
        self._resources.close()
        for queue in self.queues:
            queue.clear(reason)
        self._on_lost(reason)
