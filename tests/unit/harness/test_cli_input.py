"""Bad arguments and input: one line that says what and where, exit code 2, no traceback."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from harness.cli import main

EXPERIMENT = """
name = "x"
model = "dualpath-27b"
[workload]
{workload}
[replay]
agents = 4
turns_per_agent = {turns}
[cluster]
prefill_hosts = 1
decode_hosts = 1
{cluster}
[scale]
bytes_divisor = 512
time_dilation = 8
"""
SYNTHETIC = 'synthesize = "paper-64k"\nsynthesized_sessions = 20'


@pytest.fixture
def dualpath(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """The command in this process: exit status, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dualpath", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int | None)
        return exit_.value.code or 0, captured.out, captured.err

    return call


def refused(dualpath: object, *arguments: str) -> str:
    """The one line of a refusal."""
    assert callable(dualpath)
    status, stdout, errors = dualpath(*arguments)
    assert (status, stdout) == (2, "")
    lines = [line for line in errors.splitlines() if " agents, " not in line]  # the first line of progress
    assert len(lines) == 1, errors
    assert lines[0].startswith("dualpath: ")
    return str(lines[0])


def experiment(tmp_path: Path, workload: str = SYNTHETIC, turns: int = 2, cluster: str = "") -> str:
    file = tmp_path / "x.toml"
    file.write_text(EXPERIMENT.format(workload=workload, turns=turns, cluster=cluster))
    return str(file)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "io_bound_1p1"], "did you mean 'io_bound_1p1d'"),
        (["run"], "run: expected either an experiment (and --out, --inventory), or --resume RUN_DIR"),
        (
            ["calibrate", "compute", "toy-latent", "--host", "p0"],
            "--host: found p0 without --inventory; expected --inventory, whose host it is",
        ),
        (
            ["calibrate", "compute", "toy-latent", "--device", "cpu", "--gpu", "3"],
            "--gpu: found 3 beside --device cpu, which uses none; expected --device cuda",
        ),
        (
            ["calibrate", "compute", "toy-latent", "--out", "/nonexistent/p.toml"],
            "--out: found /nonexistent/p.toml, whose folder is not there; expected a file that can be "
            "written: make the folder or name another",
        ),
        (
            ["bench", "layerwise", "--device", "cpu", "--gpu", "3"],
            "--gpu: found 3 beside --device cpu, which uses none; expected --device cuda",
        ),
        (
            ["bench", "layerwise", "--transport", "nixl"],
            "--transport, --address: found nixl beside --copy cuda, which uses no NIC; expected --copy nic",
        ),
        (
            ["bench", "layerwise", "--address", "10.0.0.1"],
            "--transport, --address: found 10.0.0.1 beside --copy cuda, which uses no NIC; expected --copy "
            "nic",
        ),
        (
            ["bench", "storage", ".", "--gpu", "0"],
            "--gpu: found 0 beside --memory host, which is on none; expected --memory gpu",
        ),
        (
            ["bench", "transport", "--kind", "verbs,tcp", "--memory", "gpu"],
            "--memory: found gpu beside --kind tcp, which moves no GPU memory; expected --kind verbs or nixl",
        ),
        (["run", "demo", "--fast"], "No such option: --fast"),
        (["run", "demo", "--mode", "cloud"], "'cloud' is not one of 'auto', 'network_namespaces'"),
        (["walk"], "No such command 'walk'"),
        (["models", "gpt"], "model: found 'gpt', expected one of dualpath-27b, "),
        (["models", "--context", "many"], "Invalid value for '--context'"),
        (
            ["bench", "copies", "--gpu", "-1"],
            "Invalid value for '--gpu': found '-1', expected greater than or equal to 0; see 'dualpath bench "
            "copies --help'",
        ),
        (["bench", "copies", "--device"], "No such option: --device; see 'dualpath bench copies --help'"),
        (
            ["bench", "copies", "--block", "4K,0"],
            "--block: found '0', expected bytes such as 4096, 64K, 1M or 1G",
        ),
        (["traces", "inspect", "/no/such/trace"], "/no/such/trace: found No such file or directory"),
        (
            ["traces", "synthesize", "--like", "paper-1k", "-o", "x"],
            "like: found 'paper-1k', expected one of",
        ),
        (["traces", "synthesize", "--sessions", "3", "-o", "/no/such/x"], "/no/such/x: found No such file"),
        (["report", "/no/such/run"], "/no/such/run/metadata.json: cannot be read"),
    ],
)
def test_arguments(dualpath: object, arguments: list[str], expected: str) -> None:
    assert expected in refused(dualpath, *arguments)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name = ", "not valid TOML: Invalid value (at "),
        (b"\xff\xfe", "byte 0: not UTF-8"),
        (b"", "missing required field `name`"),
        (b'name = "x"\nspeed = 3', "unknown field `speed`"),
    ],
)
def test_experiment_files(tmp_path: Path, dualpath: object, content: bytes, expected: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    line = refused(dualpath, "run", str(file), "--out", str(tmp_path / "run"))
    assert line.startswith(f"dualpath: {file}: ")
    assert expected in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "found an empty file"),
        (gzip.compress(b'{"a": 1}' * 100)[:-20], "found a damaged gzip stream"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "found a Git LFS pointer"),
        (b'{"id": "\xff"}', "is not UTF-8"),
        (b'{"requests": [', "malformed JSON"),
        (b'{"something": "else"}', "expected"),
        (b"[1, 2]", "expected"),
    ],
    ids=["empty", "truncated gzip", "LFS pointer", "not UTF-8", "cut short", "other object", "other JSON"],
)
@pytest.mark.parametrize("command", ["run", "inspect"])
def test_trace_files(tmp_path: Path, dualpath: object, content: bytes, expected: str, command: str) -> None:
    trace = tmp_path / "trace.json"
    trace.write_bytes(content)
    if command == "run":
        line = refused(
            dualpath, "run", experiment(tmp_path, 'trace = "trace.json"'), "--out", str(tmp_path / "r")
        )
    else:
        line = refused(dualpath, "traces", "inspect", str(trace))
    assert line.startswith(f"dualpath: {trace}")
    assert expected in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"turns": 10**6}, "found no session of at least 1000000 turns among 20 (the longest has "),
        (
            {"cluster": "replace = { decode_buffer = 0.1 }"},
            "profile figure decode_buffer: found 0.1 GB a host, but the largest prompt has ",
        ),
        ({"cluster": 'profile = "abacus"'}, "no hardware profile named 'abacus'"),
        (
            {"cluster": "replace = { decode_bufer = 7 }"},
            "cluster.replace: found 'decode_bufer', expected figures of the profile (engines_per_host, ",
        ),
        ({"cluster": "replace = { decode_bufer = 7 }"}, "; did you mean 'decode_buffer'?"),
        (
            {"cluster": "replace = { engines_per_host = 0.5 }"},
            "profile figure engines_per_host: found 0.5, expected a whole number: set ",
        ),
        (
            {"cluster": "replace = { gpu_memory = 3 }"},
            "profile figure gpu_memory: found 3 GB x 0.9, but an engine holds 3.4 GB of dualpath-27b's "
            "weights; expected more than 4 GB: use more hosts or set cluster.replace.gpu_memory",
        ),
        (
            {"cluster": "replace = { gpu_memory = 1 }"},
            "profile figure gpu_memory: found 1 GB x 0.9, but an engine holds ",
        ),
        (
            {"cluster": "replace = { gpu_memory = 4 }"},
            "profile figure gpu_memory: found 0.2 GB left for KV on a decode engine, but the largest request "
            "needs ",
        ),
        ({"workload": 'trace = "t"\nsynthesize = "paper-64k"'}, "exactly one of 'synthesize' and 'trace'"),
    ],
)
def test_experiments_that_cannot_run(
    tmp_path: Path, dualpath: object, change: dict[str, object], expected: str
) -> None:
    file = experiment(tmp_path, **change)  # type: ignore[arg-type]
    assert expected in refused(dualpath, "run", file, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (
            '[measurement]\npolicies = ["prefill_only", "dualpath"]',
            "measurement.policies: found 'dualpath', expected any of prefill_only, dual_path, decode_only, "
            "round_robin, oracle, split; did you mean 'dual_path'?",
        ),
        (
            '[variants.dual_path]\npolicy = "dual_path"',
            "variants.dual_path: a policy has this name; expected one of its own",
        ),
        ("[online]\nagents_per_s = [0]", "online.agents_per_s[0]: Expected `float` > 0.0, found 0"),
        (
            "[online]\nsearch_from = 3\nsearch_to = 2",
            "online.search_to: found 2, expected more than search_from, which is 3",
        ),
        (
            "[online]\nagents_per_s = [1]\nlimit_s = 60",
            "online.limit_s: found 60, expected at least window_s + lookback_s = 1950; before that, no point "
            "can be steady",
        ),
    ],
)
def test_experiments_that_contradict_themselves(
    tmp_path: Path, dualpath: object, addition: str, expected: str
) -> None:
    file = Path(experiment(tmp_path))
    file.write_text(f"{file.read_text()}{addition}\n")
    line = refused(dualpath, "run", str(file), "--out", str(tmp_path / "run"))
    assert line == f"dualpath: {file}: {expected}"
    assert not (tmp_path / "run").exists()


def test_links_that_nothing_can_shape(tmp_path: Path, dualpath: object) -> None:
    file = Path(experiment(tmp_path))
    file.write_text(
        file.read_text().replace("= 512", "= 1").replace("time_dilation = 8", "time_dilation = 1")
    )
    line = refused(dualpath, "run", str(file), "--out", str(tmp_path / "run"))
    assert line == (
        "dualpath: cluster: compute_nic: found 400 GB/s, which tc does not shape links to, expected 10 kB/s "
        "to 214 GB/s: raise scale.bytes_divisor or scale.time_dilation"
    )
    assert not (tmp_path / "run").exists()


def test_an_unknown_model(tmp_path: Path, dualpath: object) -> None:
    file = Path(experiment(tmp_path))
    file.write_text(file.read_text().replace("dualpath-27b", "gpt"))
    assert "model: found 'gpt', expected one of" in refused(dualpath, "run", str(file))


def test_an_output_directory_that_is_taken_stays_as_it_is(tmp_path: Path, dualpath: object) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "metadata.json").write_text("{}")
    line = refused(dualpath, "run", experiment(tmp_path), "--out", str(taken))
    assert line == f"dualpath: --out: {taken}: not empty, expected a new or an empty directory"
    assert [path.name for path in taken.iterdir()] == ["metadata.json"]


def test_the_listings(tmp_path: Path, dualpath: object) -> None:
    assert callable(dualpath)
    status, stdout, _ = dualpath("--version")
    assert (status, stdout.startswith("dualpath 0.")) == (0, True)
    status, stdout, _ = dualpath("experiments", "--json")
    assert status == 0
    assert {"demo", "io_bound_1p1d", "compute_bound"} <= {e["name"] for e in json.loads(stdout)}
    status, stdout, _ = dualpath("models", "dualpath-27b", "--context", "1000", "--append", "10", "--json")
    assert {"kv_bytes_per_token", "prefill_flops", "gb_per_pflop"} <= set(json.loads(stdout))
    file = tmp_path / "t.jsonl"
    status, stdout, _ = dualpath("traces", "synthesize", "--sessions", "5", "--seed", "3", "-o", str(file))
    assert (status, stdout.count("\n")) == (0, 1)
    status, stdout, _ = dualpath("traces", "inspect", str(file), "--json")
    assert {"sha256", "format", "sessions", "turns", "hit_rate", "mean_turns"} <= set(json.loads(stdout))


@pytest.mark.parametrize("command", [[], ["run"], ["demo"], ["report"], ["models"], ["traces", "synthesize"]])
def test_help_is_there_for_every_command(dualpath: object, command: list[str]) -> None:
    assert callable(dualpath)
    status, stdout, errors = dualpath(*command, "--help")
    assert (status, errors) == (0, "")
    assert "Usage: dualpath" in stdout
    assert not command or "Example" in stdout
