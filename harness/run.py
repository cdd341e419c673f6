"""A run under way: what is known, what it is doing, what has been recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.calibration.result import Calibration
from harness.circumstances import now
from harness.preparation import Preparation
from harness.progress import RunProgress
from harness.recording import Repetition
from harness.records import Records
from harness.run_store import RunStore, RunStoreError
from harness.scheduling import Limits
from harness.sites.base import Site
from hosts.facts import fingerprint

_NO_LIMITS = Limits({}, 0.0, 0, 0)  # until ceilings are measured


class DeadlineError(Exception):
    """The run, or a phase of it, did not end within its deadline: exit code 3."""


@dataclass(slots=True)
class Run:
    """``roles`` by host; hosts that write what is read; ``limits`` of the request scheduler."""

    preparation: Preparation
    store: RunStore
    progress: RunProgress
    records: Records = field(default_factory=Records)
    limits: Limits = _NO_LIMITS
    roles: dict[str, str] = field(default_factory=dict)
    storage_clients: list[str] = field(default_factory=list)
    _doing: str = ""
    _replayed: Repetition | None = None

    def take(self, site: Site) -> None:
        """The site that the run is on from now on."""
        self.roles = {host.name: host.role for host in site.hosts}
        self.storage_clients = [host.name for host in site.storage_clients()]
        self.store.metadata["run_id"] = site.run_id

    def of_role(self, role: str) -> list[str]:
        """Hosts of that role, in order."""
        return [host for host, of in self.roles.items() if of == role]

    def serving(self) -> list[str]:
        """Hosts that serve turns: prefill and decode hosts."""
        return [host for host, role in self.roles.items() if role != "storage"]

    def begin(self, phase: str) -> None:
        """Say what comes now, to whoever watches and for an error that it meets."""
        self._doing = phase
        self.progress.phase(phase)

    @asynccontextmanager
    async def phase(self, name: str, text: str) -> AsyncIterator[None]:
        """As `begin`, for what has to end within ``deadlines.NAME_s``; else DeadlineError."""
        self.begin(text)
        async with self._within(name):
            yield

    @asynccontextmanager
    async def repetition(self, repetition: Repetition, label: str, turns: int | None) -> AsyncIterator[None]:
        """As `phase`, for a repetition: it is recorded when it ends, however it does; ``turns`` if it is
        known how many there are."""
        self._doing, self._replayed = f"replaying {label}", repetition
        self.progress.begin_repetition(label, turns)
        try:
            async with self._within("repetition"):
                yield
        except BaseException as error:
            # What was recorded until then is worth keeping; that it cannot be saved, a word.
            try:
                self._record(repetition)
            except RunStoreError as second:
                error.add_note(f"not all records are saved: {second}")
            raise
        self._record(repetition)
        self._replayed = None

    def begin_attempt(self, hosts: list[dict[str, Any]]) -> None:
        """The hosts are up; another attempt at what is still missing begins."""
        metadata = self.store.metadata
        if metadata["attempts"] and not metadata["attempts"][-1]["ended"]:
            self.end_attempt("the control node ended without a word")
        metadata["hosts"] = hosts
        metadata["attempts"].append(
            {"began_at": now(), "repetitions": [], "ceilings": {}, "hosts": hosts, "ended": ""}
        )
        self.store.save_metadata()

    def note_calibration(self, calibration: Calibration | None) -> None:
        """What the hosts' paths carried before, and whether these are still the same hosts."""
        if calibration is not None:
            found = {host["name"]: fingerprint(host["facts"]) for host in self.store.metadata["hosts"]}
            self.store.metadata["calibration"] = calibration.as_found(found)
            self.store.save_metadata()

    def begin_again(self, error: Exception) -> None:
        """The attempt failed, and there will be another one."""
        self.end_attempt(str(error))
        self.progress.phase(f"trying again: {error}")
        self.records.drop_incomplete()
        self._replayed = None

    def end_attempt(self, how: str) -> None:
        """Say how the latest attempt ended."""
        if attempts := self.store.metadata["attempts"]:
            attempts[-1]["ended"] = how

    def note_ceilings(self, ceilings: dict[str, float]) -> None:
        """Payload rates of the storage paths, as measured for this attempt."""
        self.limits = self.preparation.limits(ceilings)
        measured = {h: {"storage_read_bytes_per_s": r, "measured_at": now()} for h, r in ceilings.items()}
        self.store.metadata["ceilings"] = self.store.metadata["attempts"][-1]["ceilings"] = measured
        self.store.save_metadata()

    def in_flight(self) -> str:
        """What an error interrupts."""
        turns = self._replayed.in_flight() if self._replayed else ""
        return f"while {self._doing}" + (f", {turns}" if turns else "")

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Say in the records how the run ended."""
        stored = self.store.metadata
        self.store.begin()
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            stored["status"] = "interrupted" if interrupted else "failed"
            stored["failure"] = f"interrupted {self.in_flight()}" if interrupted else str(error)
            self.end_attempt(stored["failure"])
            try:
                self.records.save(self.store)
            except RunStoreError as second:
                error.add_note(f"not all records are saved: {second}")
            raise
        stored["status"] = "measured"
        self.records.save(self.store)

    def _record(self, repetition: Repetition) -> None:
        self.store.metadata["attempts"][-1]["repetitions"].append(repetition.index)
        self.records.add(repetition, self.roles)
        self.records.save(self.store)

    @asynccontextmanager
    async def _within(self, name: str) -> AsyncIterator[None]:
        limit_s: float = getattr(self.preparation.experiment.deadlines, f"{name}_s")
        try:
            async with asyncio.timeout(limit_s) as deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineError(
                f"deadlines.{name}_s: not ended within {limit_s:g} s, {self.in_flight()}"
            ) from None
