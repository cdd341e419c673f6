from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_args

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment import (
    ExperimentError,
    PolicyName,
    load_experiment,
    load_profile,
    shipped_experiments,
    shipped_profiles,
    to_toml,
)
from harness.policies import POLICIES

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
    assert load_profile(experiment.cluster.profile).replaced(experiment.cluster.replace)


@pytest.mark.parametrize("name", shipped_experiments())
def test_what_a_run_stores_of_its_experiment_is_that_experiment(tmp_path: Path, name: str) -> None:
    experiment = load_experiment(name)
    assert load_experiment(written(tmp_path, to_toml(experiment))) == experiment


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_figure_of_a_profile_names_its_source(name: str) -> None:
    assert all(figure.source and figure.unit for figure in load_profile(name).figures().values())


def test_minimal_file_gets_the_defaults(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, MINIMAL))
    assert experiment.measurement.policies == ("prefill_only", "dual_path")
    assert experiment.replay.gap_scale == 0  # the paper's setting
    assert experiment.online is None


def test_engines_compute_on_gpus_unless_told_otherwise(tmp_path: Path) -> None:
    assert load_experiment(written(tmp_path, MINIMAL)).compute.device is None
    computing = load_experiment(written(tmp_path, MINIMAL + '[compute]\nkind = "torch"\n'))
    assert computing.compute.device == "cuda"
    assert load_experiment(written(tmp_path, to_toml(computing))) == computing


def test_every_policy_has_a_name_in_experiments() -> None:
    assert set(get_args(PolicyName)) == set(POLICIES)


def test_a_policy_is_its_own_variant_with_everything_on(tmp_path: Path) -> None:
    text = MINIMAL + '[variants.basic]\npolicy = "prefill_only"\nlayerwise = false\n'
    experiment = load_experiment(written(tmp_path, text))
    basic, dual_path = experiment.variant("basic"), experiment.variant("dual_path")
    assert (basic.policy, basic.layerwise, basic.scheduling) == ("prefill_only", False, True)
    assert (dual_path.policy, dual_path.layerwise, dual_path.scheduling) == ("dual_path", True, True)


def test_a_replaced_figure_keeps_its_unit_and_names_the_experiment_file() -> None:
    profile = load_profile("hopper-400g")
    figures = profile.replaced({"decode_buffer": 7}).figures()
    assert (figures["decode_buffer"].value, figures["decode_buffer"].unit) == (7, profile.decode_buffer.unit)
    assert figures["decode_buffer"].source == "experiment file"
    assert {n: f for n, f in figures.items() if n != "decode_buffer"} == {
        n: f for n, f in profile.figures().items() if n != "decode_buffer"
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("agents = 4", "agents = 0"), "replay.agents: Expected `int` >= 1, found 0"),
        (("agents = 4", 'agents = "4"'), "replay.agents: Expected `int`, got `str`, found '4'"),
        (("prefill_hosts = 1", "prefill_hosts = 0"), "cluster.prefill_hosts: Expected `int` >= 1, found 0"),
        (("bytes_divisor = 512", "bytes_divisor = -1"), "scale.bytes_divisor: Expected `float` > 0"),
        (
            ("agents = 4", "agents = 4\nagent = 1"),
            "replay: unknown field `agent`, expected one of agents, turns_per_agent, ",
        ),
        (("agents = 4", "agents = 4\nagent = 1"), "; did you mean 'agents'?"),
        (('name = "x"', 'name = "x"\nspeed = 3'), "unknown field `speed`, expected one of name, "),
        (("agents = 4", "agents = 4\nagents_per_s = inf"), "replay.agents_per_s: Expected `float` <= 1.79"),
        (
            ("paper-64k", "paper-64"),
            "workload.synthesize: found 'paper-64', expected one of paper-32k, paper-48k, paper-64k; "
            "did you mean 'paper-64k'?",
        ),
        (
            ("[scale]", '[compute]\nkind = "torch"\ndevice = "gpu"\n[scale]'),
            "compute.device: found 'gpu', expected one of cpu, cuda; did you mean 'cuda'?",
        ),
        (
            ('model = "dualpath-27b"', 'model = "dualpath-27b"\nstorage = "page"'),
            "storage: found 'page', expected a table such as { read_streams = \"page\" }",
        ),
        (('= "dualpath-27b"', "= 27"), 'model: found 27, expected text: "27"'),
        (
            ("agents = 4", 'agents = 4\nstart = "the \' - at `$.x` of it"'),
            'replay.start: found "the \' - at `$.x` of it", expected one of beginning, middle, random',
        ),
        (
            ("decode_hosts = 1", 'decode_hosts = 1\nreplace = { storage_nic = "fast" }'),
            "cluster.replace[...]: Expected `float`, got `str`, found {'storage_nic': 'fast'}",
        ),
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


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (
            '[measurement]\npolicies = ["prefill_only", "dualpath"]',
            "measurement.policies: found 'dualpath', expected any of prefill_only, dual_path, decode_only, "
            "round_robin, oracle, split; did you mean 'dual_path'?",
        ),
        (
            '[measurement]\npolicies = ["prefill_only", "dual_path", "prefill_only"]',
            "measurement.policies: found 'prefill_only' more than once, expected each policy once",
        ),
        (
            '[variants.dual_path]\npolicy = "dual_path"',
            "variants.dual_path: a policy has this name; expected one of its own",
        ),
        (
            '[variants.basic]\npolicy = "prefil_only"',
            "variants[...].policy: found 'prefil_only', expected one of decode_only, dual_path, oracle, "
            "prefill_only, round_robin, split; did you mean 'prefill_only'?",
        ),
        ("[online]\nagents_per_s = [1, 0]", "online.agents_per_s[1]: Expected `float` > 0.0, found 0"),
        (
            "[online]\nsearch_from = 2\nsearch_to = 2",
            "online.search_to: found 2, expected more than search_from, which is 2",
        ),
        (
            "[online]\nsearch_from = 2",
            "online: expected either agents_per_s, or both search_from and search_to",
        ),
        ("[online]", "online: expected either agents_per_s, or both search_from and search_to"),
        (
            "[online]\nagents_per_s = [1]\nsearch_from = 2\nsearch_to = 3",
            "online: expected either agents_per_s, or both search_from and search_to",
        ),
        (
            "[online]\nagents_per_s = [1]\nwindow_s = 20\nlookback_s = 41\nlimit_s = 60",
            "online.limit_s: found 60, expected at least window_s + lookback_s = 61; before that, no point",
        ),
        (
            '[compute]\ndevice = "cuda"',
            "compute.device: found 'cuda' beside compute.kind = 'timed', which computes nothing; expected "
            "compute.kind = 'torch'",
        ),
        (
            '[compute]\ncopy = "nic"',
            "compute.copy: found 'nic' beside compute.kind = 'timed', which copies nothing; expected",
        ),
        (
            '[compute]\nkind = "torch"\ncopy = "nic"',
            "compute.copy: found 'nic' beside transport.kind = 'tcp', which moves no GPU memory; expected",
        ),
    ],
)
def test_what_the_types_cannot_say(tmp_path: Path, addition: str, expected: str) -> None:
    file = written(tmp_path, f"{MINIMAL}{addition}\n")
    with pytest.raises(ExperimentError) as error:
        load_experiment(file)
    assert str(error.value).startswith(f"{file}: {expected}")


@pytest.mark.parametrize(
    ("replay", "expected"),
    [
        (
            "agents_per_s = 2",
            "replay.agents_per_s: found 2.0 beside replay.arrivals = 'at_once', expected one with 'poisson', "
            "and only with it",
        ),
        (
            'arrivals = "poisson"',
            "replay.agents_per_s: found none beside replay.arrivals = 'poisson', expected one with "
            "'poisson', and only with it",
        ),
        (
            'arrivals = "recorded"\n[online]\nagents_per_s = [1]',
            "replay.arrivals: found 'recorded', expected none beside [online], which has its own",
        ),
    ],
)
def test_arrivals_have_one_rate(tmp_path: Path, replay: str, expected: str) -> None:
    file = written(tmp_path, MINIMAL.replace("agents = 4", f"agents = 4\n{replay}"))
    with pytest.raises(ExperimentError) as error:
        load_experiment(file)
    assert str(error.value) == f"{file}: {expected}"


def test_policies_must_contain_baseline_and_contender(tmp_path: Path) -> None:
    text = MINIMAL + '[measurement]\npolicies = ["prefill_only", "oracle"]\ncontender = "dual_path"\n'
    with pytest.raises(ExperimentError, match=r"measurement\.contender: found 'dual_path'"):
        load_experiment(written(tmp_path, text))


@pytest.mark.parametrize("policies", [["oracle"], ["split", "dual_path", "oracle"]])
def test_the_first_and_the_last_policy_are_compared_unless_named(tmp_path: Path, policies: list[str]) -> None:
    measurement = load_experiment(
        written(tmp_path, MINIMAL + f"[measurement]\npolicies = {policies}\n")
    ).measurement
    assert (measurement.baseline, measurement.contender) == (policies[0], policies[-1])


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
    section=st.sampled_from(["replay", "cluster", "scale", "workload", "online", "variants"]),
    value=values,
    key=st.text(max_size=8),
)
def test_mutated_documents_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, section: str, key: str, value: object
) -> None:
    document = tomllib.loads(MINIMAL + "[online]\nagents_per_s = [1]\n[variants.basic]\npolicy = 'split'\n")
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
