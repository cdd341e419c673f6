"""The gates that a run has to pass to be a result: one table, in the order in which problems are listed.

Problems make a run invalid: its figures describe the emulation or an accident, not the policies. An
identifier is part of the name of a CI's test case: it keeps its meaning, or is given up for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from reports.emulation_gates import (
    ceiling_measured,
    control_cpu,
    control_in_ttft,
    cpu,
    cpus_unsampled,
    decision_time,
    link_rate,
    no_nominal_rate,
    no_repetition_begun,
)
from reports.evidence import Evidence
from reports.problem import Problem
from reports.throttling import gpu_clocks, gpus_unsampled
from reports.validity import (
    bytes_read,
    compute_nic_bytes,
    compute_nics_unchecked,
    kv_checked,
    kv_content,
    no_rate_tried,
    nothing_complete,
    policies_measured,
    repetitions_complete,
    run_ended,
    some_rate_served,
    storage_nic_bytes,
    storage_nics_sampled,
    storage_nics_unchecked,
    turns_served,
)


def _always(_: Evidence) -> None:
    """It applies to every run."""


class Gate(NamedTuple):
    """One thing that has to be so, as ``title`` says. ``inapplicable`` is why it says nothing about a run."""

    identifier: str
    title: str
    problems: Callable[[Evidence], Iterable[Problem]]
    inapplicable: Callable[[Evidence], str | None] = _always


GATES = (
    Gate("run_ended", "the run ran to its end", run_ended),
    Gate("repetitions_complete", "every repetition ran to its end", repetitions_complete),
    Gate("policies_measured", "both compared policies have a result", policies_measured),
    Gate("bytes_read", "bytes read are the trace's hit bytes", bytes_read, nothing_complete),
    Gate("turns_served", "every turn was served once", turns_served, nothing_complete),
    Gate("kv_content", "every checked KV block is right", kv_content, nothing_complete),
    Gate("kv_checked", "KV blocks were checked", kv_checked, nothing_complete),
    Gate("storage_nics_sampled", "storage NICs were sampled", storage_nics_sampled, storage_nics_unchecked),
    Gate("storage_nic_bytes", "storage NICs counted the reads", storage_nic_bytes, storage_nics_unchecked),
    Gate("compute_nic_bytes", "compute NICs counted Layer Blocks", compute_nic_bytes, compute_nics_unchecked),
    Gate("some_rate_served", "a rate is served within the SLO", some_rate_served, no_rate_tried),
    Gate("link_rate", "links carry their nominal rate", link_rate, no_nominal_rate),
    Gate("ceiling_measured", "every storage path has a ceiling", ceiling_measured, no_repetition_begun),
    Gate("decision_time", "routing decisions are not the bottleneck", decision_time, nothing_complete),
    Gate("control_cpu", "the control node is not the bottleneck", control_cpu, nothing_complete),
    Gate("control_in_ttft", "control messages are little of TTFT", control_in_ttft, nothing_complete),
    Gate("cpu", "no host's CPUs are the bottleneck", cpu, cpus_unsampled),
    Gate("gpu_clocks", "no GPU was slowed by heat or power", gpu_clocks, gpus_unsampled),
)


class Judgement(msgspec.Struct, frozen=True):
    """What one gate found of a run: it is passed without problems, unless it was ``skipped``, and why."""

    gate: str
    title: str
    problems: list[Problem]
    skipped: str | None


def judge(evidence: Evidence) -> list[Judgement]:
    """Pass a run through every gate."""
    return [_judge(gate, evidence) for gate in GATES]


def _judge(gate: Gate, evidence: Evidence) -> Judgement:
    skipped = gate.inapplicable(evidence)
    problems = [] if skipped else list(gate.problems(evidence))
    return Judgement(gate.identifier, gate.title, problems, skipped)
