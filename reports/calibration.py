"""The rack's stored calibration beside what the run itself measured: is it still true?"""

from __future__ import annotations

from collections.abc import Iterator

from reports.ceilings import change, drifted, payload_rate
from reports.metadata import Calibration, Host, Metadata
from reports.units import ABSENT


def calibration_warnings(metadata: Metadata) -> Iterator[str]:
    """Nothing of a run without one."""
    calibration = metadata.calibration
    if calibration is None:
        return
    if calibration.stale:
        yield f"calibration is stale: {_measured(calibration)}; repeat 'dualpath calibrate'"
    for host, words in drifted(calibration.ceilings, metadata.ceilings).items():
        yield f"ceiling of {host} has drifted from the calibration's: {words}"


def calibration_text(calibration: Calibration) -> str:
    """When it was measured, and whether it still holds."""
    return f"{_measured(calibration)}{', stale' if calibration.stale else ''}"


def calibrated(metadata: Metadata, host: Host) -> str:
    """What a host's storage path carried then, and by how much the run's own ceiling differs."""
    known = metadata.calibration.ceilings.get(host.name) if metadata.calibration else None
    if known is None:
        return ABSENT
    measured = metadata.ceilings.get(host.name)
    return payload_rate(known) + (f" ({change(known, measured) * 100:+.1f} %)" if measured else "")


def _measured(calibration: Calibration) -> str:
    changed = ", ".join(calibration.fingerprint_changed)
    other = f", on other hardware than {changed} now has" if changed else ""
    return f"measured {calibration.measured_at}, {calibration.age_days:.0f} days before the run{other}"
