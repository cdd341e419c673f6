"""One run with one fault: drawn, struck, and held against what is expected of it."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from run_driver import MACHINE_GATES, CommandRun, assert_exact

from harness.launchers.remote import LEASE_S
from racks.fault_rack import FaultRack
from racks.faults import FAULTS, Fault

SLACK_S = 15.0
"""By how much a machine that others load as well may be late."""
_SOON_S = 5.0
_POLL_S = 0.1
_RESUME_TIMEOUT_S = 90.0
_PROGRESS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ +\d+\.\d s  ")


@dataclass(frozen=True, slots=True)
class Draw:
    """Which fault strikes whom and when, in the run of that number."""

    number: int
    fault: str
    victim: str
    moment: str

    @property
    def name(self) -> str:
        """The run directory's."""
        return f"run{self.number}"

    def __str__(self) -> str:
        return f"{self.number:3}  {self.fault:32} {self.victim:8} {self.moment:26}"


@dataclass(slots=True)
class Outcome:
    """What came of it. ``end_s``: from the strike to the run's end; ``gone_s``: from then until its hosts
    were free of it. ``cleaned``: what was left to `dualpath cleanup`. ``gates``: those that a busy machine
    fails. ``wrong``: expectations that failed."""

    draw: Draw
    code: int | None = None
    said: list[str] = field(default_factory=list)
    end_s: float = 0.0
    gone_s: float = 0.0
    cleaned: list[str] = field(default_factory=list)
    resumed: bool = False
    gates: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = "ok   " if not self.wrong else "WRONG"
        notes = [f"cleaned up {len(self.cleaned)}"] * bool(self.cleaned) + ["resumed"] * self.resumed
        line = f"{verdict} {self.draw} exit {self.code}, {self.end_s:.1f} s; gone {self.gone_s:.1f} s"
        return "; ".join([line, *notes, *self.gates]) + "".join(
            f"\n      {text}" for text in (*self.wrong, *self.said)
        )


def drawn(seed: int, numbers: Iterable[int], names: Sequence[str] = tuple(FAULTS)) -> list[Draw]:
    """What each of the runs gets; a run's own does not depend on the others."""
    return [_draw(random.Random(f"{seed}/{number}"), number, names) for number in numbers]


def _draw(chance: random.Random, number: int, names: Sequence[str]) -> Draw:
    name = chance.choice(names)
    fault = FAULTS[name]
    return Draw(number, name, chance.choice(fault.victims), chance.choice(fault.moments))


def suffer(rack: FaultRack, draw: Draw) -> Outcome:
    """A run under a fault:

    1. start it, and strike at the moment drawn
    2. wait for its end, and judge how it ended and what it said
    3. wait until its hosts are free of it, the fault still there
    4. undo the fault; clean up what the run could not; nothing may be left
    5. go on with the run, where that is to be possible
    """
    fault, outcome = FAULTS[draw.fault], Outcome(draw)
    if left := rack.leftovers():
        outcome.wrong.append(f"there before, of an earlier run: {left}")
        rack.purge()
    with fault.made(rack, draw.victim) as strike, rack.run(draw.name) as run:
        try:
            rack.until(run, draw.moment)
            strike(run)
        except AssertionError as error:
            outcome.wrong.append(f"not struck: {error}")
        struck_at = time.monotonic()
        _await_end(run, fault, outcome)
        outcome.end_s = time.monotonic() - struck_at
        _judge(run, draw, fault, outcome)
        _await_free_hosts(rack, fault, outcome)
    _clean_up(rack, draw, fault, outcome)
    if fault.resumes and not outcome.wrong and (run.directory / "inventory.toml").exists():
        _resume(rack, draw, outcome)
    if not outcome.wrong:
        shutil.rmtree(run.directory)
    return outcome


def _await_end(run: CommandRun, fault: Fault, outcome: Outcome) -> None:
    try:
        _, stderr = run.process.communicate(timeout=fault.within_s + SLACK_S)
        outcome.code = run.process.returncode
    except subprocess.TimeoutExpired:
        outcome.wrong.append(f"not ended {fault.within_s:g} s after the strike")
        run.process.kill()
        _, stderr = run.process.communicate()
    lines = [*run.errors, *stderr.splitlines()]
    outcome.said = [line.rstrip("\n") for line in lines if not _PROGRESS.match(line)]


def _judge(run: CommandRun, draw: Draw, fault: Fault, outcome: Outcome) -> None:
    if outcome.code in (0, 1) and fault.code == 0:
        _judge_result(run, outcome)
    elif outcome.code != fault.code:
        outcome.wrong.append(f"exit {outcome.code}, expected {fault.code}")
    pattern = f"dualpath: {fault.says.format(victim=draw.victim)}" if fault.says else None
    if len(outcome.said) != (1 if pattern else 0):
        outcome.wrong.append(f"{len(outcome.said)} lines on stderr, expected {1 if pattern else 'none'}")
    elif pattern and not re.match(pattern, outcome.said[0]):
        outcome.wrong.append(f"expected {pattern!r}")
    if fault.code != 0:
        if run.metadata["status"] in ("measured", "complete"):
            outcome.wrong.append(f"recorded as {run.metadata['status']}")
        if (run.directory / "summary.json").exists() and run.summary["valid"]:
            outcome.wrong.append("reported as valid")


def _judge_result(run: CommandRun, outcome: Outcome) -> None:
    """Right to the byte, whether or not the machine kept up."""
    problems = run.summary["problems"]
    outcome.gates = [problem for problem in problems if problem.startswith(MACHINE_GATES)]
    outcome.wrong += [f"invalid: {problem}" for problem in problems if problem not in outcome.gates]
    if outcome.code != (1 if problems else 0) or run.metadata["status"] != "complete":
        outcome.wrong.append(
            f"exit {outcome.code}, status {run.metadata['status']}, with {len(problems)} problems"
        )
    try:
        assert_exact(run)
    except AssertionError as error:
        outcome.wrong.append(f"not exact: {error}")


def _await_free_hosts(rack: FaultRack, fault: Fault, outcome: Outcome) -> None:
    """Whoever is cut off from the control node ends by itself."""
    began_at = time.monotonic()
    limit_s = LEASE_S + SLACK_S if fault.silences else _SOON_S
    while left := rack.leftovers().get("processes"):
        outcome.gone_s = time.monotonic() - began_at
        if outcome.gone_s > limit_s:
            outcome.wrong.append(f"still there {limit_s:g} s after the end: {', '.join(left)}")
            return
        time.sleep(_POLL_S)


def _clean_up(rack: FaultRack, draw: Draw, fault: Fault, outcome: Outcome) -> None:
    left = rack.leftovers()
    if left and draw.victim not in fault.cut_off:
        outcome.wrong.append(f"left: {left}")
    if left:
        cleaned = rack.cleanup()
        outcome.cleaned = re.findall("^removed .*", cleaned.stdout, re.M)
        if cleaned.returncode:
            outcome.wrong.append(f"cleanup: exit {cleaned.returncode}: {cleaned.stderr.strip()}")
        if left := rack.leftovers():
            outcome.wrong.append(f"left after cleanup: {left}")
            rack.purge()


def _resume(rack: FaultRack, draw: Draw, outcome: Outcome) -> None:
    """Go on to the end, as a run that nothing happens to."""
    undisturbed, again = FAULTS["none"], Outcome(draw)
    with rack.resumed(draw.name) as run:
        _await_end(run, undisturbed, again)
        _judge(run, draw, undisturbed, again)
    if left := rack.leftovers():
        again.wrong.append(f"left: {left}")
    outcome.resumed, outcome.gates = True, again.gates
    outcome.wrong += [f"resumed: {text}" for text in again.wrong]
    outcome.said += again.said
