"""``dualpath check`` and ``dualpath inventory discover``: bad input is one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main

RACK = """
[launcher]
kind = "ssh"
[storage]
mount = "/mnt/kv"
[[hosts]]
name = "p0"
role = "prefill"
storage_nic = { name = "eth1" }
compute_nics = [{ name = "eth2" }]
[[hosts]]
name = "d0"
role = "decode"
storage_nic = { name = "eth1" }
compute_nics = [{ name = "eth2" }]
"""


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["dualpath", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["p0", "d0", "--role", "boss=2"],
            "--role: found 'boss=2', expected ROLE=COUNT with one of prefill, ",
        ),
        (["p0", "d0", "--role", "prefill=one"], "--role: found 'prefill=one', expected ROLE=COUNT"),
        (["p0", "d0", "--role", "prefill=1"], "--role: found 1 roles for 2 hosts, expected one for each"),
        (["p0", "p0"], "HOST: found one more than once"),
        (["p0", "a@b@c"], "HOST: found 'a@b@c', expected [NAME=][USER@]ADDRESS[:PORT]"),
        (["p0", "[fd00::1]:22"], "give it a name: NAME=[fd00::1]:22"),
        (["p0", "d0", "--option", "user"], "--option: found 'user', expected KEY=VALUE"),
        (["p0", "d0", "--option", "usr=bob"], "--option: Object contains unknown field `usr`"),
        (["p0", "d0", "--option", "port=ssh"], "--option: Expected `int`"),
        (["p0", "d0", "--storage", "mnt"], "--storage: found 'mnt', expected an absolute path or http://"),
        (["p0", "d0", "--launcher", "k8s"], "'k8s' is not one of 'ssh', 'slurm', 'ray'"),
    ],
)
def test_hosts_to_discover(
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert expected in refused(monkeypatch, capsys, "inventory", "discover", *arguments)


def test_a_file_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "rack.toml"
    taken.write_text("mine")
    line = refused(monkeypatch, capsys, "inventory", "discover", "p0", "d0", "--out", str(taken))
    assert line == f"dualpath: --out: {taken}: exists, expected a new file"
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "experiment", "expected"),
    [
        (
            ('name = "d0"', 'name = "p0"'),
            [],
            "hosts: found name 'p0' 2 times (p0, p0), expected a host of its own",
        ),
        (
            ('kind = "ssh"', 'kind = "ssh"\nusr = "bob"'),
            [],
            "rack.toml: launcher: unknown field `usr`, expected one of kind, user, port, key, known_hosts, "
            "jump, concurrency, connect_timeout_s; did you mean 'user'?",
        ),
        (
            ('role = "decode"', 'role = "decode"\nstorag_nic = "eth1"'),
            [],
            "rack.toml: hosts[1]: unknown field `storag_nic`, expected one of name, role, ",
        ),
        (('role = "decode"', 'role = "decoder"'), [], "hosts[1].role: found 'decoder', expected one of"),
        (("", ""), ["no-such-experiment"], "no experiment named 'no-such-experiment'"),
    ],
)
def test_inventories_and_experiments_that_are_refused(
    change: tuple[str, str],
    experiment: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rack.toml"
    file.write_text(RACK.replace(*change))
    assert expected in refused(monkeypatch, capsys, "check", *experiment, "--inventory", str(file))
