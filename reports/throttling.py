"""Were GPUs slowed by heat or by their power supply? Then the policies did not run on the same GPUs.

A slowdown in more than `SLOWED_SHARE` of a repetition's samples makes the run no result; less is worth a
word, since some GPUs show a HW slowdown for a moment when they change clocks. So is a power cap, which a GPU
under full load runs into by design.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports.clock_reasons import POWER_CAP, SLOWING, share, shares
from reports.evidence import Evidence
from reports.gpu_series import Gpu, gpus_in, reasons
from reports.problem import Problem, where
from reports.units import percent
from reports.validity import nothing_complete

SLOWED_SHARE = 0.01
_FIX = (
    "improve its cooling (thermal) or its power supply and power limit (HW slowdown, power brake): "
    "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER shows them"
)


def gpus_unsampled(evidence: Evidence) -> str | None:
    """Why GPUs' clocks cannot be judged."""
    if evidence.run.gpu_samples["clocks_event_reasons"].notna().any():
        return nothing_complete(evidence)
    known = ((host.name, host.facts.get("gpus_not_sampled")) for host in evidence.run.metadata.hosts)
    why = "; ".join(f"{host}: {reason}" for host, reason in known if reason)
    return f"no GPU was sampled ({why})" if why else "no GPU was sampled"


def gpu_clocks(evidence: Evidence) -> Iterator[Problem]:
    """No GPU was slowed by heat or by its power supply."""
    for repetition in evidence.repetitions:
        for gpu, samples in gpus_in(evidence.run, [repetition]):
            if share(reasons(samples), SLOWING) > SLOWED_SHARE:
                yield Problem(
                    "GPU was slowed down",
                    f"{where(repetition)}, {gpu}",
                    _in_words(samples, SLOWING),
                    f"a slowdown in at most {percent(SLOWED_SHARE, 0)} of them",
                    _FIX,
                )


def gpu_warnings(evidence: Evidence) -> Iterator[str]:
    """A line a GPU and complaint, by its worst repetition."""
    yield from _worst(evidence, SLOWING, SLOWED_SHARE, _FIX)
    yield from _worst(
        evidence, POWER_CAP, 1.0, "usual under full load; nvidia-smi -q -d POWER shows the limit in force"
    )
    yield from _failed(evidence)


def _worst(evidence: Evidence, asked: int, most: float, advice: str) -> Iterator[str]:
    """What held GPUs back in some samples, but in no more than ``most`` of a repetition's."""
    found: dict[Gpu, list[tuple[float, str]]] = {}
    for repetition in evidence.repetitions:
        for gpu, samples in gpus_in(evidence.run, [repetition]):
            part = share(reasons(samples), asked)
            if 0 < part <= most:
                text = f"{where(repetition)}: {_in_words(samples, asked)}"
                found.setdefault(gpu, []).append((part, text))
    for gpu, places in found.items():
        often = f"{len(places)} of {len(evidence.repetitions)} repetitions"
        yield f"clocks of {gpu} were held back in {often}, worst in {max(places)[1]}; {advice}"


def _in_words(samples: pd.DataFrame, asked: int) -> str:
    by_reason = shares(reasons(samples), asked)
    return " and ".join(f"{name} in {percent(part)}" for name, part in by_reason.items()) + " of the samples"


def _failed(evidence: Evidence) -> Iterator[str]:
    for gpu, samples in gpus_in(evidence.run, evidence.repetitions):
        errors = samples.loc[samples["error"] != "", "error"]
        if len(errors):
            said = ", ".join(errors.unique())
            yield f"{gpu} did not answer in {len(errors):,} of {len(samples):,} samples: {said}"
