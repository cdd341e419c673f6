"""A rack's ceilings with their date and the hardware they were measured on; how true they still are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

import msgspec

from harness.experiment import ExperimentError

FORMAT_VERSION = 2
"""1 called ``place`` something else."""
STALE_AFTER_DAYS = 30.0
OVERSUBSCRIBED = 0.9
"""A path that carries less than this share of what it carries alone shares a link with others."""


class StorageCeiling(msgspec.Struct, frozen=True):
    """A host's storage path, payload bytes/s: it alone, all hosts at once; fio(1) alone, None without it."""

    alone_bytes_per_s: float
    together_bytes_per_s: float
    fio_bytes_per_s: float | None = None


class TransferCeiling(msgspec.Struct, frozen=True):
    """One-sided reads by ``initiator`` from ``peer``, payload bytes/s, as many pairs at once as there are."""

    initiator: str
    peer: str
    together_bytes_per_s: float


class Calibration(msgspec.Struct, frozen=True):
    """``place`` is what it was measured on; ``alone_bytes_per_s`` what each host reads from another one
    alone. ``fingerprints`` are of the hosts' hardware; ``profile`` holds the figures of compute in force,
    which are not measured here."""

    format_version: int
    measured_at: str
    place: str
    dualpath_version: str
    experiment: str
    transport: str
    fingerprints: dict[str, dict[str, str]]
    storage: dict[str, StorageCeiling]
    alone_bytes_per_s: dict[str, float]
    transfers: list[TransferCeiling]
    profile: dict[str, Any]

    def oversubscribed(self) -> list[tuple[TransferCeiling, float]]:
        """Paths that carry less than they should while all are at work, and the share that they carry."""
        found = []
        for transfer in self.transfers:
            ends = (self.alone_bytes_per_s[transfer.initiator], self.alone_bytes_per_s[transfer.peer])
            share = transfer.together_bytes_per_s / min(ends)
            if share < OVERSUBSCRIBED:
                found.append((transfer, share))
        return sorted(found, key=lambda pair: pair[1])

    def age_days(self, now: datetime | None = None) -> float:
        """How long ago it was measured."""
        return ((now or datetime.now(UTC)) - datetime.fromisoformat(self.measured_at)).total_seconds() / 86400

    def as_found(self, fingerprints: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """As a run that begins now stores it in metadata.json; ``fingerprints`` of its hosts."""
        changed = [
            h for h, now in fingerprints.items() if h in self.fingerprints and self.fingerprints[h] != now
        ]
        age_days = self.age_days()
        return {
            "measured_at": self.measured_at,
            "age_days": age_days,
            "stale": age_days > STALE_AFTER_DAYS or bool(changed),
            "fingerprint_changed": changed,
            "ceilings": {
                host: {"storage_read_bytes_per_s": c.together_bytes_per_s, "measured_at": self.measured_at}
                for host, c in self.storage.items()
                if host in fingerprints
            },
        }


def calibration_file(inventory: File) -> File:
    """Where the calibration of an inventory is: beside it."""
    return inventory.with_suffix(".calibration.json")


def save(calibration: Calibration, file: File) -> None:
    """Write it, whole or not at all."""
    draft = file.with_name(f".{file.name}.new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1))
    draft.replace(file)


def load(file: File) -> Calibration | None:
    """What was saved, None if nothing was; raises ExperimentError for anything else."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ExperimentError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        calibration = msgspec.json.decode(content, type=Calibration)
    except msgspec.DecodeError as error:
        raise ExperimentError(
            f"{file}: not a calibration ({error}); fix: repeat 'dualpath calibrate'"
        ) from None
    if calibration.format_version != FORMAT_VERSION:
        raise ExperimentError(
            f"{file}: found format_version {calibration.format_version}, expected {FORMAT_VERSION}; fix: "
            "repeat 'dualpath calibrate'"
        )
    return calibration
