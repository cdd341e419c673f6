from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment import (
    ExperimentError,
    load_experiment,
    load_profile,
    shipped_experiments,
    shipped_profiles,
)

MINIMAL = """
name = "x"
model = "dualpath-27b"
[workload]
synthesize = "paper-64k"
[replay]
agents = 4
[cluster]
prefill_hosts = 1
decode_hosts = 1
[scale]
bytes_divisor = 512
time_dilation = 8
"""


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "experiment.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize("name", shipped_experiments())
def test_shipped_experiments_are_valid_and_named_after_their_file(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.description
    assert load_profile(experiment.cluster.profile)


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_figure_of_a_profile_names_its_source(name: str) -> None:
    assert all(figure.source and figure.unit for figure in load_profile(name).figures().values())


def test_minimal_file_gets_the_defaults(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, MINIMAL))
    assert experiment.measurement.policies == ("prefill_only", "dual_path")
    assert experiment.replay.gap_scale == 0  # the paper's setting


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("agents = 4", "agents = 0"), "replay.agents: Expected `int` >= 1, found 0"),
        (("agents = 4", 'agents = "4"'), "replay.agents: Expected `int`, got `str`, found '4'"),
        (("prefill_hosts = 1", "prefill_hosts = 0"), "cluster.prefill_hosts: Expected `int` >= 1, found 0"),
        (("bytes_divisor = 512", "bytes_divisor = -1"), "scale.bytes_divisor: Expected `float` > 0"),
        (("agents = 4", "agents = 4\nspeed = 1"), "unknown field `speed`"),
        (("paper-64k", "paper-1k"), "workload.synthesize: Invalid enum value 'paper-1k'"),
        (('synthesize = "paper-64k"', ""), "exactly one of 'synthesize' and 'trace'"),
        (('name = "x"', 'name = "../x"'), "name: Expected `str` matching regex"),
        (("[replay]", "[replay"), "not valid TOML"),
    ],
)
def test_errors_name_file_key_found_and_expected(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    file = written(tmp_path, MINIMAL.replace(*change))
    with pytest.raises(ExperimentError) as error:
        load_experiment(file)
    message = str(error.value)
    assert message.startswith(file)
    assert expected in message
    assert "\n" not in message


def test_policies_must_contain_baseline_and_contender(tmp_path: Path) -> None:
    text = MINIMAL + '[measurement]\npolicies = ["prefill_only", "oracle"]\n'
    with pytest.raises(ExperimentError, match=r"measurement\.contender: found 'dual_path'"):
        load_experiment(written(tmp_path, text))


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(ExperimentError, match="did you mean 'io_bound_1p1d'"):
        load_experiment("io_bound_1p1")


def test_missing_file_and_non_utf8(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_experiment(str(tmp_path / "none.toml"))
    with pytest.raises(ExperimentError, match="not UTF-8"):
        load_experiment(written(tmp_path, b"name = '\xff'"))


def test_a_relative_trace_is_relative_to_the_experiment_file(tmp_path: Path) -> None:
    text = MINIMAL.replace('synthesize = "paper-64k"', 'trace = "t.jsonl"')
    assert load_experiment(written(tmp_path, text)).workload.trace == str(tmp_path / "t.jsonl")


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = written(tmp_path_factory.mktemp("any"), content)
    with pytest.raises(ExperimentError) as error:
        load_experiment(file)
    assert "\n" not in str(error.value)


values = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)


@given(
    section=st.sampled_from(["replay", "cluster", "scale", "workload"]), value=values, key=st.text(max_size=8)
)
def test_mutated_documents_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, section: str, key: str, value: object
) -> None:
    document = tomllib.loads(MINIMAL)
    keys = list(document[section])
    document[section][keys[len(key) % len(keys)] if len(key) < 5 else key] = value
    try:
        text = tomli_w.dumps(document)
    except (TypeError, UnicodeEncodeError):
        return  # not expressible in TOML
    message = ""
    try:
        load_experiment(written(tmp_path_factory.mktemp("mutated"), text.encode("utf-8", "surrogatepass")))
    except ExperimentError as error:  # and nothing else
        message = str(error)
    assert "\n" not in message
