"""Every metric once: its unit and what it is, as the report prints it."""

from __future__ import annotations

from typing import NamedTuple

from reports.active_phase import ACTIVE_SHARE
from reports.balance import START, WINDOW_REAL_S
from reports.bottleneck import SATURATED, WAITED
from reports.statistics import CONFIDENCE, METHOD, RESOLUTION
from reports.throttling import SLOWED_SHARE


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
        "Geometric mean of the baseline / of the contender, of jct_s, in an ablation of agent_jct_mean_s "
        "(the paper's mean JCT, 7.4): a short job lasts as long as its longest answer, which no read path "
        f"shortens, so that its jct_s hides what the agents gain. {CONFIDENCE * 100:.0f} % interval: "
        f"{METHOD}. Significant when the whole interval lies beyond {RESOLUTION * 100:.0f} % of 1, the "
        "testbed's resolution.",
    ),
    Definition("turns_per_s", "1/s, a repetition", "Turns completed / jct_s."),
    Definition(
        "ttft_s",
        "s, a turn",
        "first_token_at_ns - arrived_at_ns: time to first token, on the control node's clock; turns of all "
        "complete repetitions together. A percentile p is given from 100 / (100 - p) turns on.",
    ),
    Definition(
        "ttst_s",
        "s, a turn",
        "second_token_ns: from first to second token on the decode host, loading the prompt's KV into its "
        "HBM included; turns of at least two output tokens.",
    ),
    Definition(
        "tpot_s",
        "s a token, a turn",
        "decode_ns / (output_tokens - 1): from first to last token on the decode host; turns of at least two "
        "output tokens.",
    ),
    Definition(
        "ttft_parts_s",
        "s, mean",
        "The paper's parts of TTFT: scheduling = schedule; allocation; kv_read = read; prefill = "
        "engine_wait + hbm_wait + compute + transfer. control stays apart.",
    ),
    Definition(
        "ttft_breakdown_s.schedule", "s, mean", "From a turn's arrival until it is dispatched to its hosts."
    ),
    Definition("ttft_breakdown_s.allocation", "s, mean", "Waiting for space in the DE and PE buffers."),
    Definition(
        "ttft_breakdown_s.read",
        "s, mean",
        "Reading the hit KV from storage into a buffer, the wait in the host's read queue included; of a "
        "read that both hosts share, the longer part.",
    ),
    Definition("ttft_breakdown_s.engine_wait", "s, mean", "Waiting for the prefill engine to be free."),
    Definition(
        "ttft_breakdown_s.hbm_wait",
        "s, mean",
        "Waiting for space in the prefill engine's HBM; only without layerwise prefill.",
    ),
    Definition("ttft_breakdown_s.compute", "s, mean", "Prefill compute (timed or real kernels)."),
    Definition(
        "ttft_breakdown_s.transfer",
        "s, mean",
        "Layer Block transfers that were not hidden behind compute, the last layer's write included; where "
        "engines compute, also copies between host memory and HBM.",
    ),
    Definition(
        "ttft_breakdown_s.control",
        "s, mean",
        "ttft_s minus all other parts: control messages and whatever no host timed.",
    ),
    Definition(
        "agent_jct_s",
        "s, an agent",
        "end of its last turn - arrival of its first: session completion, an agent replays one session.",
    ),
    Definition("agent_jct_mean_s", "s, a repetition", "Mean agent_jct_s over the agents of the repetition."),
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
        "Bytes that the NIC received (interface, and RDMA that bypasses it) / payload read, over the same "
        "interval; protocol headers make up to 1.05.",
    ),
    Definition(
        "bytes by traffic class",
        "emulated bytes",
        "What a host's compute NIC sent of each class over complete repetitions, headers included: high is "
        "model communication, low is KV (paper section 5). On emulated links counted by the host's HTB "
        "leaves, which class only what it sends; on real NICs by the driver and priority, RDMA included.",
    ),
    Definition(
        "error counters",
        "events, a repetition",
        "Growth, from begin to end of a repetition, of counters that stay put on a sound link: of the "
        "interface (rx_errors, tx_errors) and of its RDMA port (counters and hw_counters in sysfs). Only "
        "those that grew are shown.",
    ),
    Definition(
        "gpu.utilization",
        "ratio",
        "Time in which a kernel ran on the GPU, however few of its SMs it used, within the driver's last "
        "sampling period (1/6 to 1 s): nvmlDeviceGetUtilizationRates. Mean and max over the samples between "
        "begin and end of complete repetitions, as of all figures of GPUs.",
    ),
    Definition(
        "gpu.HBM used",
        "bytes",
        "Device memory in use by anybody, what the driver reserves included: nvmlDeviceGetMemoryInfo. Max.",
    ),
    Definition(
        "gpu.SM clock",
        "MHz; ratio",
        "nvmlDeviceGetClockInfo of the SMs, mean; of its maximum: / nvmlDeviceGetMaxClockInfo, mean. An idle "
        "GPU lowers its clock, and lowers the mean.",
    ),
    Definition(
        "gpu.PCIe sent, received",
        "bytes/s",
        "Growth of the GPU's PCIe byte counters (NVML_FI_DEV_PCIE_COUNT_TX_BYTES, RX_BYTES; driver 555 or "
        "newer) / time between the first and last sample. Sent: what the GPU writes to the host or a NIC. A "
        "counter of 32 bits misses 4 GiB for each time that so much passes between two samples.",
    ),
    Definition(
        "gpu.power, temperature",
        "W; °C",
        "nvmlDeviceGetPowerUsage of the whole board, by the driver averaged over 1 s on most GPUs, mean; "
        "nvmlDeviceGetTemperature of the GPU, max.",
    ),
    Definition(
        "gpu.clocks held back by",
        "ratio",
        "Samples in which nvmlDeviceGetCurrentClocksEventReasons names the reason, and not idle beside it / "
        "all samples. Throttling: HW slowdown (to half the clocks or less), HW and SW thermal slowdown (too "
        "hot), HW power brake (its power supply asks for it). With any of them in more than "
        f"{SLOWED_SHARE * 100:.0f} % of a repetition's samples a run is invalid; less is a warning, and so "
        "is SW power cap (the power limit in force). Idle, clocks settings, sync boost: no throttling.",
    ),
    Definition(
        "active phase",
        "s",
        f"[0, q], q = {ACTIVE_SHARE * 100:.0f} % quantile of first_token_at_ns over the repetition's turns: "
        "until so many turns have their first token. A few long answers after that leave prefill idle.",
    ),
    Definition(
        "prefill_engine_busy",
        "ratio",
        "mean over prefill hosts of: sum over the host's rows of forwards.parquet of (end_at_ns - "
        "begin_at_ns, within the active phase) / (engines x active phase). An engine is busy while it takes "
        "part in a forward pass, however small its batch.",
    ),
    Definition(
        "balance.storage_nic",
        "ratio",
        "sum over windows of (max over hosts of bytes that the storage NIC's counter received in the window) "
        "/ sum over windows of (their mean over hosts) = mean of max / mean, weighted by the windows' "
        f"traffic; windows of {WINDOW_REAL_S:g} real s over the active phase; a value a repetition, mean "
        "with its t interval. all: every serving host; prefill, decode: hosts of one role, where both read.",
    ),
    Definition(
        "balance.attention",
        "ratio",
        "sum over forward passes of (max over the pass's engines of attention_ns) / sum over passes of "
        "(their mean, 0 without work) = mean of max / mean, weighted by the passes' attention time; "
        "passes that begin in the active phase; active: all of them, start: those that begin in the first "
        f"{START * 100:.0f} % of jct_s. Engines that run no pass together have no ratio.",
    ),
    Definition(
        "ablation.agent_jct_s",
        "s",
        "Mean of agent_jct_mean_s over repetitions, with Student's t interval.",
    ),
    Definition(
        "ablation.reduction",
        "ratio",
        "1 - (geometric mean of the variant's agent_jct_mean_s / that of the first variant); interval as for "
        "speedup.",
    ),
    Definition(
        "bound",
        "ratio",
        "The first that is saturated of: max of busy_utilization of prefill and of decode storage NICs (mean "
        f"over hosts) >= {SATURATED * 100:.0f} %; prefill_engine_busy >= {SATURATED * 100:.0f} %; max of "
        f"allocation / TTFT and hbm_wait / TTFT >= {WAITED * 100:.0f} %. If none is, the busiest. NICs "
        "before engines, since a forward pass takes whatever prompts have arrived: engines that are short of "
        "them run smaller passes back to back.",
    ),
    Definition(
        "online.max_agents_per_s",
        "1/s, real",
        "Highest arrival rate whose point was steady within the SLO.",
    ),
    Definition("online.ratio", "ratio", "max_agents_per_s of the contender / of the baseline."),
    Definition(
        "real units",
        "",
        "Time / time_dilation, bytes x bytes_divisor, rates x rate_divisor (the scale model).",
    ),
)
