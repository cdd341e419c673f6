"""What breaks on a rack, and what a run has to make of it: the registry of faults.

A fault is a context: what it needs is there before the run begins, the strike happens in the middle of the
run, and all of it is undone when the context is left, after the run.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from run_driver import CommandRun

from harness.cluster.namespaces import bridge
from hosts.config import Network
from racks.fault_rack import CONTROL, FaultRack

SERVING = ("p0", "d0", "d1")
HOSTS = ("storage", *SERVING)

STEP_S = 3600
"""By how much a clock steps."""
_ZEROS = bytes(1 << 20)

Strike = Callable[[CommandRun], object]
Made = Callable[[FaultRack, str], AbstractContextManager[Strike]]

# The run's own words for where it is; or how many turns of which repetition are done.
CHECK, AGENTS = "checking 4 hosts", "deploying 4 agents"
PRIME, CEILINGS, WARM_UP = "priming the storage", "measuring storage ceilings", "warming up"
FIRST, SECOND = "turn 3 of repetition 1", "turn 3 of repetition 2"
MEASURED = (FIRST, SECOND)
DEPLOYED = (PRIME, CEILINGS, WARM_UP, *MEASURED)
READING = (WARM_UP, *MEASURED)
ANY = (CHECK, AGENTS, *DEPLOYED)


@dataclass(frozen=True, slots=True)
class Fault:
    """One, at any of ``victims`` and ``moments``, and what is expected then.

    ``says``: a pattern for what stderr's one line begins with after ``dualpath: ``, where ``{victim}`` is the
    host that was struck; '' for no line. ``code``: the exit status; 0 stands for a valid result.
    ``within_s``: seconds after the strike by which the run has to be over. ``silences``: agents may be left
    that end by themselves when they have heard nothing for a lease. ``cut_off``: for these victims, what the
    run has stored may be left to `dualpath cleanup`, once the fault is undone. ``resumes``: `--resume` goes
    on with the run.
    """

    made: Made
    victims: Sequence[str]
    moments: Sequence[str]
    says: str = ""
    code: int = 3
    within_s: float = 60
    silences: bool = False
    cut_off: Sequence[str] = ()
    resumes: bool = False


@contextmanager
def nothing(rack: FaultRack, host: str) -> Iterator[Strike]:
    """No fault: what everything else is compared with."""
    yield lambda run: None


@contextmanager
def agent_gets(number: signal.Signals, rack: FaultRack, host: str) -> Iterator[Strike]:
    """A signal to a host's agent."""
    yield lambda run: rack.agent(host, run).send_signal(number)


@contextmanager
def control_gets(number: signal.Signals, rack: FaultRack, host: str) -> Iterator[Strike]:
    """A signal to the control node's process."""
    yield lambda run: run.process.send_signal(number)


@contextmanager
def sshd_killed(rack: FaultRack, host: str) -> Iterator[Strike]:
    """A host's sshd with all its connections; commands are left."""
    try:
        yield lambda run: rack.lab.kill_sshd(host)
    finally:
        rack.restart_sshd(host)


@contextmanager
def link_down(network: Network, rack: FaultRack, host: str) -> Iterator[Strike]:
    """A host's link, at the switch's end: the host sees that there is no carrier."""
    try:
        yield lambda run: rack.lab.set_link(host, "down", network)
    finally:
        rack.lab.set_link(host, "up", network)


@contextmanager
def link_silent(network: Network, rack: FaultRack, host: str) -> Iterator[Strike]:
    """The switch forwards nothing to a host and from it any more; links stay up."""
    try:
        yield lambda run: rack.lab.set_link(host, "nomaster", network)
    finally:
        rack.lab.set_link(host, f"master {bridge(network)}", network)


@contextmanager
def storage_killed(rack: FaultRack, host: str) -> Iterator[Strike]:
    """The storage server ends."""
    try:
        yield lambda run: rack.storage_server().kill()
    finally:
        rack.restart_storage()


@contextmanager
def storage_stopped(rack: FaultRack, host: str) -> Iterator[Strike]:
    """The storage server hangs: connections stand, nobody answers."""
    server = rack.storage_server()
    try:
        yield lambda run: server.suspend()
    finally:
        server.resume()


@contextmanager
def disk_full(disk: Literal["store", "runs"], rack: FaultRack, host: str) -> Iterator[Strike]:
    """Somebody else fills the disk that the KV store, or the run directory, is on."""
    filling = getattr(rack, disk) / "somebody-elses"
    try:
        yield lambda run: fill(filling)
    finally:
        filling.unlink(missing_ok=True)


def fill(file: Path) -> None:
    """Take all that is free on a disk."""
    with file.open("wb", buffering=0) as taken, suppress(OSError):
        while True:  # the last one writes what still fits (write(2))
            taken.write(_ZEROS)


@contextmanager
def clock_steps(by_s: int, rack: FaultRack, host: str) -> Iterator[Strike]:
    """A clock that somebody sets; only CLOCK_REALTIME can be (clock_settime(2))."""
    with rack.own_clock(host) as step:
        yield lambda run: step(by_s)


@contextmanager
def clock_off(by_s: int, rack: FaultRack, host: str) -> Iterator[Strike]:
    """A clock that is wrong from the beginning."""
    with rack.own_clock(host) as step:
        step(by_s)
        yield lambda run: None


CONTROLS, STORAGE, EVERYBODY = (CONTROL,), ("storage",), (CONTROL, *HOSTS)
EARLY_OR_READING = (CHECK, AGENTS, *READING)
NAMED = "host {victim}: "
STORE_FAILS = "host (p0|d0|d1): .*http://"
"""What the hosts say of a server, with its address: it is none of them."""
NO_ROOM = "host (storage|p0|d0|d1): .*(space|full)"
EITHER_END = r"host [^,]*\b{victim}\b"
"""Of two hosts that cannot reach each other, neither knows whose fault it is: both are named."""
KILL, STOP, INT, TERM = signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM

# fmt: off
FAULTS: dict[str, Fault] = {
    "none": Fault(nothing, CONTROLS, (CHECK,), code=0),
    "agent killed": Fault(
        partial(agent_gets, KILL), HOSTS, (AGENTS, *DEPLOYED), f"{NAMED}its agent process", within_s=20),
    "agent stopped": Fault(partial(agent_gets, STOP), HOSTS, (CEILINGS, *READING), f"{NAMED}no answer to "),
    "sshd killed": Fault(sshd_killed, HOSTS, ANY, NAMED, silences=True, cut_off=STORAGE),
    "control node killed": Fault(
        partial(control_gets, KILL), CONTROLS, ANY, code=-9, within_s=5, silences=True, cut_off=CONTROLS,
        resumes=True),
    "control node interrupted": Fault(
        partial(control_gets, INT), CONTROLS, ANY, "interrupted", code=130, within_s=15, resumes=True),
    "control node terminated": Fault(
        partial(control_gets, TERM), CONTROLS, ANY, "interrupted", code=130, within_s=15, resumes=True),
    "management link down": Fault(
        partial(link_down, "management"), HOSTS, ANY, NAMED, silences=True, cut_off=STORAGE),
    "management link silent": Fault(
        partial(link_silent, "management"), HOSTS, ANY, NAMED, silences=True, cut_off=STORAGE),
    "storage link down": Fault(partial(link_down, "storage"), SERVING, EARLY_OR_READING, NAMED),
    "compute link down": Fault(partial(link_down, "compute"), SERVING, EARLY_OR_READING, EITHER_END),
    "storage server unplugged": Fault(
        partial(link_down, "storage"), STORAGE, EARLY_OR_READING, STORE_FAILS, cut_off=STORAGE),
    "storage server killed": Fault(storage_killed, STORAGE, EARLY_OR_READING, STORE_FAILS, cut_off=STORAGE),
    "storage server stopped": Fault(storage_stopped, STORAGE, EARLY_OR_READING, STORE_FAILS, cut_off=STORAGE),
    "disk of the store full": Fault(
        partial(disk_full, "store"), STORAGE, (CHECK, AGENTS, *MEASURED), NO_ROOM),
    "disk of the run directory full": Fault(partial(disk_full, "runs"), CONTROLS, ANY, "/.*disk is full"),
    "clock steps forward": Fault(partial(clock_steps, STEP_S), EVERYBODY, DEPLOYED, code=0),
    "clock steps back": Fault(partial(clock_steps, -STEP_S), EVERYBODY, DEPLOYED, code=0),
    "clock an hour ahead": Fault(partial(clock_off, STEP_S), HOSTS, (CHECK,), f"{NAMED}clock: "),
    "clock an hour behind": Fault(partial(clock_off, -STEP_S), HOSTS, (CHECK,), f"{NAMED}clock: "),
}
# fmt: on
