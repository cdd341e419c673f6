"""What the options of ``dualpath calibrate compute`` say, refused before anything is measured."""

from __future__ import annotations

import os
from pathlib import Path

from harness.experiment import ExperimentError, HardwareProfile
from harness.inventory import Inventory
from workloads.models import Model


def expert_engines(
    option: str | None, model: Model, profile: HardwareProfile, rack: Inventory | None
) -> tuple[int, ...]:
    """``8,16`` as those. Not given: all prefill engines and all decode engines of a rack or, without one,
    those of a host; (1,) for a model without experts. Raises ExperimentError for anything else."""
    if option is None:
        return _engines_there(profile, rack) if model.expert_parallel else (1,)
    numbers = [part.strip() for part in option.split(",")]
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise ExperimentError(
            f"--engines: found '{option}', expected how many engines share the experts, such as 8 or 8,16"
        )
    counts = tuple(sorted({int(number) for number in numbers}))
    if not model.expert_parallel and counts != (1,):
        raise ExperimentError(
            f"--engines: found {option}, but {model.name} has no experts to share; expected no --engines"
        )
    return counts


def _engines_there(profile: HardwareProfile, rack: Inventory | None) -> tuple[int, ...]:
    of_host = int(profile.engines_per_host.value)
    if rack is None:
        return (of_host,)
    roles = [rack.of_role(role) for role in ("prefill", "decode")]
    return tuple(sorted({sum(host.engines or of_host for host in hosts) for hosts in roles if hosts}))


def check_new_profile(output: Path, profile: str) -> None:
    """Raises ExperimentError where ``output`` cannot be written, or is a file that would be lost: that of
    ``profile`` is added to."""
    if not output.parent.is_dir():
        found, fix = f"{output}, whose folder is not there", "make the folder or name another"
    elif output.exists() and not output.is_file():
        found, fix = f"{output}, which is no regular file", "name another"
    elif not os.access(output.parent, os.W_OK):
        found, fix = f"{output}, in whose folder you may not write", "name another"
    elif output.exists() and output.resolve() != Path(profile).resolve():
        found, fix = f"{output}, which exists", f"name another, or add to it with --profile {output}"
    else:
        return
    raise ExperimentError(f"--out: found {found}; expected a file that can be written: {fix}")
