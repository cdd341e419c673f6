"""What the types of an experiment file cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from harness.experiment.errors import did_you_mean
from harness.experiment.sections import Experiment, PolicyName
from hosts.config import TrafficClass


def problems(experiment: Experiment) -> Iterator[str]:
    """Everything that is wrong with it, a line each."""
    yield from _check_workload(experiment)
    yield from _check_policies(experiment)
    yield from _check_arrivals(experiment)
    yield from _check_classes(experiment)
    yield from _check_compute(experiment)


def _check_workload(experiment: Experiment) -> Iterator[str]:
    if (experiment.workload.synthesize is None) == (experiment.workload.trace is None):
        yield "workload: expected exactly one of 'synthesize' and 'trace'"
    for key in ("max_agent_tokens", "tokenizer"):
        if experiment.workload.trace is None and getattr(experiment.workload, key) is not None:
            yield f"workload.{key}: expected only beside 'trace'"


def _check_policies(experiment: Experiment) -> Iterator[str]:
    measurement, known = experiment.measurement, (*get_args(PolicyName), *experiment.variants)
    for name in experiment.variants:
        if name in get_args(PolicyName):
            yield f"variants.{name}: a policy has this name; expected one of its own"
    for name in measurement.policies:
        if name not in known:
            yield (
                f"measurement.policies: found '{name}', expected any of {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        if measurement.policies.count(name) > 1:
            yield f"measurement.policies: found '{name}' more than once, expected each policy once"
    for key in ("baseline", "contender"):
        policy = getattr(measurement, key)
        if policy not in measurement.policies:
            yield (
                f"measurement.{key}: found '{policy}', expected one of measurement.policies "
                f"({', '.join(measurement.policies)})"
            )


def _check_arrivals(experiment: Experiment) -> Iterator[str]:
    replay, online = experiment.replay, experiment.online
    if (replay.arrivals == "poisson") != (replay.agents_per_s is not None):
        yield (
            f"replay.agents_per_s: found {replay.agents_per_s or 'none'} beside replay.arrivals = "
            f"'{replay.arrivals}', expected one with 'poisson', and only with it"
        )
    if online is None:
        return
    if replay.arrivals != "at_once":
        yield f"replay.arrivals: found '{replay.arrivals}', expected none beside [online], which has its own"
    match online.search_from, online.search_to:
        case None, None:
            complete = bool(online.agents_per_s)
        case float(low), float(high):
            complete = not online.agents_per_s
            if low >= high:
                yield f"online.search_to: found {high:g}, expected more than search_from, which is {low:g}"
        case _:
            complete = False
    if not complete:
        yield "online: expected either agents_per_s, or both search_from and search_to"
    if online.limit_s < (least_s := online.window_s + online.lookback_s):
        yield (
            f"online.limit_s: found {online.limit_s:g}, expected at least window_s + lookback_s = "
            f"{least_s:g}; before that, no point can be steady"
        )


def _check_classes(experiment: Experiment) -> Iterator[str]:
    for name in get_args(TrafficClass):
        if name not in experiment.transport.classes:
            yield f"transport.classes: found no '{name}', expected how both classes are marked"


def _check_compute(experiment: Experiment) -> Iterator[str]:
    """What is only timed has no device and is not copied, and only some transports reach GPUs."""
    compute, transport = experiment.compute, experiment.transport.kind
    if compute.kind == "timed":
        if compute.device is not None:
            yield (
                f"compute.device: found '{compute.device}' beside compute.kind = 'timed', which computes "
                "nothing; expected compute.kind = 'torch'"
            )
        if compute.copy != "cuda":
            yield (
                f"compute.copy: found '{compute.copy}' beside compute.kind = 'timed', which copies nothing; "
                "expected compute.kind = 'torch'"
            )
    elif compute.copy == "nic" and compute.device == "cuda" and transport == "tcp":
        yield (
            "compute.copy: found 'nic' beside transport.kind = 'tcp', which moves no GPU memory; expected "
            "transport.kind = 'verbs' or 'nixl', or compute.copy = 'cuda'"
        )
