"""Experiment files: what to replay, on what cluster, under which policies.

An experiment is TOML. Unknown keys, wrong types and impossible values are refused with the file,
the key path, what was found and what was expected. Those that ship with the package go by name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

PolicyName = Literal["prefill_only", "dual_path", "decode_only", "round_robin", "oracle", "split"]
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
_T = TypeVar("_T")


class ExperimentError(ValueError):
    """An experiment that cannot run: names the file and the key."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Workload(_Section, frozen=True):
    """Either ``synthesize`` (a paper trace by name) or ``trace`` (a file or folder).

    ``append_scale`` and ``generated_scale`` multiply appended and generated tokens; a session ends where
    it would pass ``max_agent_tokens`` (a synthesized one: its trace's MAL). A trace of texts needs a
    ``tokenizer``.
    """

    synthesize: Literal["paper-32k", "paper-48k", "paper-64k"] | None = None
    trace: str | None = None
    seed: Annotated[int, Meta(ge=0)] = 1
    synthesized_sessions: Positive = 500
    append_scale: AboveZero = 1.0
    generated_scale: AboveZero = 1.0
    max_agent_tokens: Positive | None = None
    tokenizer: str | None = None


class Replay(_Section, frozen=True):
    """``agents`` sessions, each replaying ``turns_per_agent`` turns in order (0: all) from ``start`` on.

    They start together (``at_once``, the paper's offline setting), as a Poisson process of
    ``agents_per_s``, or as ``recorded`` (x ``arrival_scale``, plus up to ``arrival_jitter_s`` where the
    recording is coarse). The next turn arrives when the previous one is done plus the recorded gap x
    ``gap_scale``, capped at ``gap_cap_s``; ``gap_scale = 0`` is the paper's setting (7.1). Real seconds.
    """

    agents: Positive
    turns_per_agent: Annotated[int, Meta(ge=0)] = 0
    start: Literal["beginning", "middle", "random"] = "beginning"
    arrivals: Literal["at_once", "poisson", "recorded"] = "at_once"
    agents_per_s: AboveZero | None = None
    arrival_scale: AboveZero = 1.0
    arrival_jitter_s: NonNegative = 0.0
    gap_scale: NonNegative = 0.0
    gap_cap_s: NonNegative = 60.0


class Online(_Section, frozen=True):
    """Agents arrive as a Poisson process until the point is decided (paper 7.4); real seconds.

    A point violates the SLO when the mean TTFT or TPOT of the last ``window_s`` is above its limit, and
    is steady when that TTFT is within ``tolerance`` of the one ``lookback_s`` before. Either the points
    ``agents_per_s``, or, if none are given, a bisection for the highest within the SLO, from ``search_from``
    to ``search_to``, until the bracket is narrower than ``resolution``.
    """

    agents_per_s: tuple[AboveZero, ...] = ()
    search_from: AboveZero | None = None
    search_to: AboveZero | None = None
    resolution: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    slo_ttft_s: AboveZero = 4.0
    slo_tpot_s: AboveZero = 0.05
    window_s: AboveZero = 150.0
    lookback_s: AboveZero = 1800.0
    tolerance: AboveZero = 0.05
    limit_s: AboveZero = 3600.0


class Cluster(_Section, frozen=True):
    """xPyD of one hardware profile; ``replace`` puts other values in place of the profile's figures, by
    name and in the profile's units."""

    prefill_hosts: Positive
    decode_hosts: Positive
    profile: str = "hopper-400g"
    replace: dict[str, AboveZero] = {}


class Scale(_Section, frozen=True):
    """Emulated bytes = real / ``bytes_divisor``; emulated time = real x ``time_dilation``; one layer is
    moved for ``layers_divisor`` of the model's."""

    bytes_divisor: AboveZero
    time_dilation: AboveZero
    layers_divisor: Positive = 1


class RequestScheduler(_Section, frozen=True):
    """The paper's constants (section 6): alpha is what a host reads in ``alpha_s``, beta what an engine
    processes in ``beta_s``; a forward batch's attention stays below ``compute_quota_s``. How often
    leaders fetch work, the paper does not say. Real seconds."""

    alpha_s: AboveZero = 3.0
    beta_s: AboveZero = 5.0
    compute_quota_s: AboveZero = 0.3
    fetch_interval_s: AboveZero = 0.005


class Variant(_Section, frozen=True):
    """A policy with parts of the engine switched off, for ablations: ``layerwise`` prefill (4.1) and
    load-aware ``scheduling`` (6.1)."""

    policy: PolicyName
    layerwise: bool = True
    scheduling: bool = True


class Storage(_Section, frozen=True):
    """Streams and chunk of each host's read queue (bytes as moved)."""

    read_streams: Positive = 4
    read_chunk_bytes: Annotated[int, Meta(ge=4096)] = 256 * 1024


class Measurement(_Section, frozen=True):
    """``policies`` are policies or ``[variants.NAME]`` by name and alternate A B B A; ``deadline_s``
    bounds the whole run (wall clock)."""

    policies: Annotated[tuple[str, ...], Meta(min_length=1)] = ("prefill_only", "dual_path")
    baseline: str = "prefill_only"
    contender: str = "dual_path"
    repetitions: Positive = 3
    ceiling_s: AboveZero = 2.0
    telemetry_interval_s: Annotated[float, Meta(ge=0.01, le=0.1)] = 0.1
    verify_every: Positive = 16
    deadline_s: AboveZero = 600.0


class Experiment(_Section, frozen=True):
    """One comparison, ready to run; ``online`` makes it one of arrival rates instead of JCTs."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    model: str
    workload: Workload
    replay: Replay
    cluster: Cluster
    scale: Scale
    description: str = ""
    storage: Storage = Storage()
    request_scheduler: RequestScheduler = RequestScheduler()
    variants: dict[str, Variant] = {}
    measurement: Measurement = Measurement()
    online: Online | None = None

    def variant(self, name: str) -> Variant:
        """What ``measurement.policies`` means by ``name``."""
        return self.variants[name] if name in self.variants else msgspec.convert({"policy": name}, Variant)


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
    host_memory_bandwidth: Figure
    gpu_peak: Figure
    gpu_efficiency: Figure
    gpu_memory: Figure
    gpu_memory_share: Figure
    hbm_bandwidth: Figure
    decode_overhead: Figure

    def figures(self) -> dict[str, Figure]:
        """All figures by name."""
        return {f: getattr(self, f) for f in self.__struct_fields__ if f not in ("name", "description")}

    def replaced(self, values: Mapping[str, float]) -> HardwareProfile:
        """The profile with other values for some figures; raises ExperimentError for a name it lacks."""
        figures = self.figures()
        for name in values:
            if name not in figures:
                raise ExperimentError(
                    f"cluster.replace: found '{name}', expected figures of the profile ({', '.join(figures)})"
                )
        new = {
            name: Figure(value=value, unit=figures[name].unit, source="experiment file")
            for name, value in values.items()
        }
        return msgspec.structs.replace(self, **new)


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
    problems = [*_check_workload(experiment), *_check_policies(experiment), *_check_arrivals(experiment)]
    if problems:
        raise ExperimentError(f"{path}: {problems[0]}")


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
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            yield f"measurement.policies: found '{name}', expected any of {', '.join(known)}{hint}"
    for key in ("baseline", "contender"):
        policy = getattr(measurement, key)
        if policy not in measurement.policies and len(measurement.policies) > 1:
            yield (
                f"measurement.{key}: found '{policy}', expected one of measurement.policies "
                f"({', '.join(measurement.policies)})"
            )
    if len(set(measurement.policies)) < len(measurement.policies):
        yield "measurement.policies: a policy is listed twice"


def _check_arrivals(experiment: Experiment) -> Iterator[str]:
    replay, online = experiment.replay, experiment.online
    if (replay.arrivals == "poisson") != (replay.agents_per_s is not None):
        yield "replay.agents_per_s: expected with, and only with, replay.arrivals = 'poisson'"
    if online is None:
        return
    if replay.arrivals != "at_once":
        yield f"replay.arrivals: found '{replay.arrivals}', expected none beside [online], which has its own"
    search = (online.search_from, online.search_to)
    if bool(online.agents_per_s) == (search != (None, None)):
        yield "online: expected either agents_per_s or search_from and search_to"
    elif not online.agents_per_s and (None in search or search[0] >= search[1]):  # type: ignore[operator]
        yield f"online: found a search from {search[0]} to {search[1]}, expected both, the first one lower"


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
