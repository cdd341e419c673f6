"""Experiment files: what to replay, on what cluster, under which policies.

An experiment is TOML. Unknown keys, wrong types and impossible values are refused with the file,
the key path, what was found and what was expected. Those that ship with the package go by name.
"""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

PolicyName = Literal["prefill_only", "dual_path", "decode_only", "oracle"]
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
_T = TypeVar("_T")


class ExperimentError(ValueError):
    """An experiment that cannot run: names the file and the key."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Workload(_Section, frozen=True):
    """Either ``synthesize`` (a paper trace by name) or ``trace`` (a file or folder)."""

    synthesize: Literal["paper-32k", "paper-48k", "paper-64k"] | None = None
    trace: str | None = None
    seed: Annotated[int, Meta(ge=0)] = 1
    synthesized_sessions: Positive = 500
    append_scale: AboveZero = 1.0
    generated_scale: AboveZero = 1.0


class Replay(_Section, frozen=True):
    """``agents`` sessions start together; each replays ``turns_per_agent`` turns in order (0: all).

    The next turn arrives when the previous one is done plus the recorded gap x ``gap_scale``,
    capped at ``gap_cap_s`` (real seconds). ``gap_scale = 0`` is the paper's setting (7.1).
    """

    agents: Positive
    turns_per_agent: Annotated[int, Meta(ge=0)] = 0
    start: Literal["beginning", "middle"] = "beginning"
    gap_scale: NonNegative = 0.0
    gap_cap_s: NonNegative = 60.0


class Cluster(_Section, frozen=True):
    """xPyD of one hardware profile; a field given here replaces the profile's figure."""

    prefill_hosts: Positive
    decode_hosts: Positive
    profile: str = "hopper-400g"
    engines_per_host: Positive | None = None
    host_buffer_gb: AboveZero | None = None


class Scale(_Section, frozen=True):
    """Emulated bytes = real / ``bytes_divisor``; emulated time = real x ``time_dilation``."""

    bytes_divisor: AboveZero
    time_dilation: AboveZero


class Storage(_Section, frozen=True):
    """Streams and chunk of each host's read queue (bytes as moved)."""

    read_streams: Positive = 4
    read_chunk_bytes: Annotated[int, Meta(ge=4096)] = 256 * 1024


class Measurement(_Section, frozen=True):
    """Policies alternate A B B A; ``deadline_s`` bounds the whole run (wall clock)."""

    policies: Annotated[tuple[PolicyName, ...], Meta(min_length=1)] = ("prefill_only", "dual_path")
    baseline: PolicyName = "prefill_only"
    contender: PolicyName = "dual_path"
    repetitions: Positive = 3
    ceiling_s: AboveZero = 2.0
    telemetry_interval_s: Annotated[float, Meta(ge=0.01, le=0.1)] = 0.1
    verify_every: Positive = 16
    deadline_s: AboveZero = 600.0


class Experiment(_Section, frozen=True):
    """One comparison, ready to run."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    model: str
    workload: Workload
    replay: Replay
    cluster: Cluster
    scale: Scale
    description: str = ""
    storage: Storage = Storage()
    measurement: Measurement = Measurement()


class Figure(_Section, frozen=True):
    """A number with its unit and where it comes from."""

    value: AboveZero
    unit: str
    source: str


class HardwareProfile(_Section, frozen=True):
    """A host as real hardware has it; every figure names its source."""

    name: str
    description: str
    engines_per_host: Figure
    storage_nic: Figure
    compute_nic: Figure
    host_buffer: Figure
    gpu_peak: Figure
    gpu_efficiency: Figure
    decode_step: Figure

    def figures(self) -> dict[str, Figure]:
        """All figures by name."""
        return {f: getattr(self, f) for f in self.__struct_fields__ if f not in ("name", "description")}


def shipped_experiments() -> dict[str, Path]:
    """Name -> file of every experiment in the package."""
    return _shipped("workloads", "experiments")


def shipped_profiles() -> dict[str, Path]:
    """Name -> file of every hardware profile in the package."""
    return _shipped("harness", "profiles")


def load_experiment(name_or_path: str) -> Experiment:
    """An experiment by shipped name or by file; raises ExperimentError."""
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.exists():
        path = _by_name("experiment", name_or_path, shipped_experiments())
    experiment = _decode(path, Experiment)
    _check(path, experiment)
    if experiment.workload.trace is None:
        return experiment
    trace = (path.parent / Path(experiment.workload.trace).expanduser()).resolve()
    return msgspec.structs.replace(
        experiment, workload=msgspec.structs.replace(experiment.workload, trace=str(trace))
    )


def load_profile(name_or_path: str) -> HardwareProfile:
    """A hardware profile by shipped name or by file; raises ExperimentError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _by_name("hardware profile", name_or_path, shipped_profiles())
    return _decode(path, HardwareProfile)


def _check(path: Path, experiment: Experiment) -> None:
    """What the types cannot say."""
    workload, measurement = experiment.workload, experiment.measurement
    if (workload.synthesize is None) == (workload.trace is None):
        raise ExperimentError(f"{path}: workload: expected exactly one of 'synthesize' and 'trace'")
    if workload.trace is not None and (workload.append_scale, workload.generated_scale) != (1.0, 1.0):
        raise ExperimentError(
            f"{path}: workload: append_scale and generated_scale shape a synthesized trace, expected neither "
            "beside 'trace', which is replayed as it is"
        )
    for key in ("baseline", "contender"):
        policy = getattr(measurement, key)
        if policy not in measurement.policies and len(measurement.policies) > 1:
            raise ExperimentError(
                f"{path}: measurement.{key}: found '{policy}', expected one of measurement.policies "
                f"({', '.join(measurement.policies)})"
            )
    if len(set(measurement.policies)) < len(measurement.policies):
        raise ExperimentError(f"{path}: measurement.policies: a policy is listed twice")


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: byte {error.start}: not UTF-8; expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path}: not valid TOML: {error}") from None
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        line = " ".join(_in_words(str(error), document).split())  # a key may hold anything
        raise ExperimentError(f"{path}: {line}") from None


def _in_words(message: str, document: dict[str, Any]) -> str:
    """``Expected `int`, got `str` - at `$.scale.bytes_divisor``` with the path first and the value found."""
    what, _, where = message.partition(" - at `$.")
    key = where.rstrip("`")
    if not key:
        return what
    found: Any = document
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    shown = "" if found is None or isinstance(found, dict) else f", found {found!r}"
    return f"{key}: {what}{shown}"


def _shipped(package: str, folder: str) -> dict[str, Path]:
    with resources.as_file(resources.files(package) / folder) as path:
        return {file.stem: file for file in sorted(path.glob("*.toml"))}


def _by_name(kind: str, name: str, known: dict[str, Path]) -> Path:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ExperimentError(f"no {kind} named '{name}', and no such file{hint} (known: {', '.join(known)})")
