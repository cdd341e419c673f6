"""Every metric once: its unit and what it is, as the report prints it."""

from __future__ import annotations

from typing import NamedTuple

from reports.statistics import CONFIDENCE, METHOD, RESOLUTION


class Definition(NamedTuple):
    """``name`` as in summary.json, ``formula`` a sentence."""

    name: str
    unit: str
    formula: str


DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "jct_s",
        "s, a repetition",
        "Job completion time: from the start of the first turn to the end of the last, on the control "
        "node's clock.",
    ),
    Definition(
        "speedup",
        "ratio",
        f"Geometric mean jct_s of the baseline / of the contender; {CONFIDENCE * 100:.0f} % interval: "
        f"{METHOD}. Significant when the whole interval lies beyond {RESOLUTION * 100:.0f} % of 1, the "
        "testbed's resolution.",
    ),
    Definition("turns_per_s", "1/s, a repetition", "Turns completed / jct_s."),
    Definition(
        "ttft_s",
        "s, a turn",
        "Time to first token: from the turn's arrival to its first token, on the control node's clock; "
        "turns of all complete repetitions together. A percentile p is given from 100 / (100 - p) turns on.",
    ),
    Definition(
        "ttft_breakdown_s.schedule", "s, mean", "From a turn's arrival until it is dispatched to its hosts."
    ),
    Definition("ttft_breakdown_s.allocation", "s, mean", "Waiting for space in the DE and PE buffers."),
    Definition(
        "ttft_breakdown_s.read",
        "s, mean",
        "Reading the hit KV from storage into a buffer, the wait in the host's read queue included.",
    ),
    Definition("ttft_breakdown_s.engine_wait", "s, mean", "Waiting for the prefill engine to be free."),
    Definition("ttft_breakdown_s.compute", "s, mean", "Prefill compute (timed or real kernels)."),
    Definition(
        "ttft_breakdown_s.transfer",
        "s, mean",
        "Layer Block transfers that were not hidden behind compute, the last layer's write included.",
    ),
    Definition(
        "ttft_breakdown_s.control",
        "s, mean",
        "ttft_s minus all other parts: control messages and whatever no host timed.",
    ),
    Definition(
        "session_completion_s",
        "s, a session",
        "From the arrival of a session's first turn to the end of its last.",
    ),
    Definition(
        "bytes_read",
        "emulated bytes",
        "Payload bytes that the storage back-ends counted, summed over complete repetitions; must equal "
        "bytes_expected, the theoretical hit bytes computed from the trace alone.",
    ),
    Definition(
        "storage_nic.HOST.bytes",
        "emulated bytes",
        "Payload that the host's storage NIC carried, reads and writes (persisted blocks), over complete "
        "repetitions.",
    ),
    Definition(
        "busy window",
        "s",
        "From the first begin of a storage read on any host to the earlier of: the first end of a host's "
        "last read, among hosts that should be busy; the instant at which half of the sessions are done.",
    ),
    Definition(
        "storage_nic.HOST.expected_busy",
        "flag",
        "The host's storage reads come to at least 10 % of those of the host that reads most.",
    ),
    Definition(
        "storage_nic.HOST.busy_utilization",
        "ratio",
        "Payload bytes that the host read from storage within the busy window / (window x the host's "
        "ceiling).",
    ),
    Definition(
        "storage_nic.HOST.mean_utilization",
        "ratio",
        "Payload bytes that the host read from storage / (jct_s x the host's ceiling): ramp and tail "
        "included.",
    ),
    Definition(
        "storage_nic.HOST.ceiling_gbit_per_s",
        "emulated Gbit/s",
        "Payload rate measured on that host's own storage path just before the repetitions.",
    ),
    Definition(
        "storage_nic.HOST.counter_over_payload",
        "ratio",
        "Bytes that the interface received / payload read, over the same interval; protocol headers make "
        "up to 1.05.",
    ),
    Definition(
        "prefill_engine_busy",
        "ratio",
        "Sum of prefill compute over all turns / (prefill engines x sum of jct_s).",
    ),
    Definition(
        "real units",
        "",
        "Time / time_dilation, bytes x bytes_divisor, rates x rate_divisor (the scale model).",
    ),
)
