"""The host itself: its Python, its directory, its clock, and what else is going on there."""

from __future__ import annotations

from collections.abc import Iterator

from harness.preflight.case import AS_ROOT, Case, in_words
from harness.preflight.findings import Finding

OLDEST_PYTHON = (3, 11)
BUNDLE_BYTES = 250 * 10**6
"""What a bundle takes, unpacked and compiled (numpy above all), and another one beside it."""
_CLOCK_WARNING_S, _CLOCK_ERROR_S = 1.0, 60.0
_BUSY = 0.1


def lock(case: Case) -> Iterator[Finding]:
    """Nobody else measures here."""
    found = case.facts.lock
    if not found.held:
        if not found.error:
            yield case.ok("lock", "no other run measures here")
        return
    holder = found.holder
    who = (
        f"run {holder.get('run_id', '?')} of {holder.get('user', '?')} measures here since "
        f"{holder.get('since', '?')}, controlled from {holder.get('control', '?')}"
        if holder
        else f"another run measures here; {found.error}"
    )
    yield case.error("lock", who, "wait for its end, or talk to its user")


def python(case: Case) -> Iterator[Finding]:
    """Agents run on it, in an environment of their own."""
    found, oldest = case.facts.python, ".".join(map(str, OLDEST_PYTHON))
    if found.release < OLDEST_PYTHON:
        said = f"found {found.version} ({found.executable})" if found.version else found.error
        yield case.error(
            "python",
            f"{said}, expected {oldest} or newer",
            f'install Python {oldest} on the hosts, and name it in the inventory: python = "python{oldest}"',
        )
        return
    if found.venv_error:
        yield case.warning(
            "python",
            f"{found.executable} makes no environments, and ours is made like venv's: {found.venv_error}",
            f"apt-get install python{'.'.join(map(str, found.release))}-venv ({AS_ROOT}), if deploying fails",
        )
    else:
        yield case.ok("python", f"{found.version}, {found.platform}, {found.libc}")


def directory(case: Case) -> Iterator[Finding]:
    """dualpath's own can be made, written, and run from."""
    found, user = case.facts.directory, case.facts.machine.user
    if found.error or not found.path:
        return
    elsewhere = 'or name another one in the inventory: directory = "..."'
    problems = []
    if not found.writable:
        problems.append(
            (
                f"{found.path}: {found.existing} cannot be written by {user}",
                f"mkdir -p {found.path} && chown {user} {found.path} ({AS_ROOT}), {elsewhere}",
            )
        )
    if found.noexec:
        problems.append(
            (
                f"{found.path}: is on a file system that nothing may be run from (noexec)",
                f"mount -o remount,exec it ({AS_ROOT}), {elsewhere}",
            )
        )
    if found.free_bytes < BUNDLE_BYTES:
        problems.append(
            (
                f"{found.path}: found {in_words(found.free_bytes)} free, expected "
                f"{in_words(BUNDLE_BYTES)} for the bundle",
                f"free space there, {elsewhere}",
            )
        )
    for evidence, fix in problems:
        yield case.error("directory", evidence, fix)
    if not problems:
        yield case.ok("directory", f"{found.path}, {in_words(found.free_bytes)} free")


def clock(case: Case) -> Iterator[Finding]:
    """Roughly right, for certificates and logs: no result subtracts two hosts' clocks."""
    low, high = case.facts.clock_offset_s
    least_s = low if low > 0 else -high if high < 0 else 0.0
    direction = "ahead of" if low > 0 else "behind"
    if least_s <= _CLOCK_WARNING_S:
        yield case.ok("clock", f"within {max(abs(low), abs(high)):.1f} s of the control node's")
        return
    yield case.finding(
        "error" if least_s > _CLOCK_ERROR_S else "warning",
        "clock",
        f"at least {least_s:.1f} s {direction} the control node's, expected within {_CLOCK_WARNING_S:g} s",
        f"chronyc makestep, or timedatectl set-ntp true ({AS_ROOT})",
    )


def load(case: Case) -> Iterator[Finding]:
    """Nothing else keeps its CPUs busy."""
    found = case.facts.load
    if not found.cpus:
        return
    if found.usable_cpus < found.cpus:
        yield case.warning(
            "load",
            f"{found.usable_cpus} of {found.cpus} CPUs may be used",
            "ask the batch system for all of them (Slurm: --exclusive)",
        )
    if found.busy > _BUSY:
        names = ", ".join(f"{process.name} ({process.cpus:.1f} CPUs)" for process in found.processes)
        yield case.warning(
            "load",
            f"{found.busy:.0%} of {found.cpus} CPUs busy{f' with {names}' if names else ''}, expected idle",
            "stop what else runs there, or wait for its end",
        )
    else:
        yield case.ok("load", f"{found.busy:.0%} of {found.cpus} CPUs busy")


def unknown(case: Case) -> Iterator[Finding]:
    """What could not be found out, so that its silence is no good news."""
    for name, part in case.facts.parts().items():
        if part.error and name != "python" and not (name == "lock" and case.facts.lock.held):
            yield case.warning(
                name, f"could not be found out: {part.error}", "look into it on the host, then check again"
            )
