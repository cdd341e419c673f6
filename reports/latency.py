"""What a turn and an agent wait for: TTFT and its parts, TTST, TPOT, JCT of an agent. Emulated seconds."""

from __future__ import annotations

import pandas as pd

from reports.statistics import distribution

BREAKDOWN = (
    "schedule",
    "allocation",
    "read",
    "engine_wait",
    "hbm_wait",
    "compute",
    "transfer",
    "control",
)
"""The finer parts of TTFT, in the order in which a turn meets them; control is what the others leave."""

PARTS = {
    "scheduling": ("schedule",),
    "allocation": ("allocation",),
    "kv_read": ("read",),
    "prefill": ("engine_wait", "hbm_wait", "compute", "transfer"),
    "control": ("control",),
}
"""The paper's four parts of TTFT (section 7) by our finer ones; what it does not have stays apart."""

Distribution = dict[str, float | None]


def ttft_s(turns: pd.DataFrame) -> pd.Series[float]:
    """From arrival to first token, a value a turn."""
    return (turns["first_token_at_ns"] - turns["arrived_at_ns"]) / 1e9


def ttft_breakdown(turns: pd.DataFrame) -> dict[str, float]:
    """Mean seconds of each part of TTFT, keys as in ``BREAKDOWN``; they add up to mean TTFT."""
    if turns.empty:
        return {}
    timed = {
        "schedule": turns["dispatched_at_ns"] - turns["arrived_at_ns"],
        "allocation": turns["allocate_ns"],
        "read": turns["read_ns"],
        "engine_wait": turns["engine_wait_ns"],
        "hbm_wait": turns["hbm_wait_ns"],
        "compute": turns["compute_ns"],
        "transfer": turns["transfer_ns"],
    }
    means_s = {part: float(durations_ns.mean()) / 1e9 for part, durations_ns in timed.items()}
    return means_s | {"control": float(ttft_s(turns).mean()) - sum(means_s.values())}


def ttft_parts(breakdown_s: dict[str, float]) -> dict[str, float]:
    """A breakdown in the paper's parts, keys as in ``PARTS``."""
    if not breakdown_s:
        return {}
    return {part: sum(breakdown_s[finer] for finer in inside) for part, inside in PARTS.items()}


def ttft_distribution(turns: pd.DataFrame) -> Distribution:
    """Mean and percentiles of TTFT over all turns."""
    return distribution(ttft_s(turns).to_list())


def ttst_distribution(turns: pd.DataFrame) -> Distribution:
    """Mean and percentiles of the time from first to second token, over turns that have one."""
    several = turns[turns["output_tokens"] >= 2]
    return distribution((several["second_token_ns"] / 1e9).to_list())


def tpot_distribution(turns: pd.DataFrame) -> Distribution:
    """Mean and percentiles of the time an output token after the first takes, a value a turn."""
    several = turns[turns["output_tokens"] >= 2]
    return distribution((several["decode_ns"] / 1e9 / (several["output_tokens"] - 1)).to_list())


def agent_jct_s(turns: pd.DataFrame) -> pd.Series[float]:
    """From an agent's first arrival to the end of its last turn, by (repetition, session)."""
    agents = turns.groupby(["repetition", "session_id"])
    return (agents["done_at_ns"].max() - agents["arrived_at_ns"].min()) / 1e9


def real(emulated_s: Distribution, time_dilation: float) -> Distribution:
    """The same figures on the hardware that the profile describes."""
    return {name: None if value is None else value / time_dilation for name, value in emulated_s.items()}
