"""A run's private keys and its transport key are in nobody's arguments, environment, logs or files."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from run_driver import NOTHING, CommandRun, write_long_experiment

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
]

COMMAND_THAT_TELLS = """\
#!{python}
import runpy, sys
from pathlib import Path
from harness import authority
from harness.sites import base

told = Path({told!r})
generate, issue = base.secrets.token_bytes, authority._private_pem

def token_bytes(nbytes):
    key = generate(nbytes)
    if nbytes == 32:  # a run's id is made of random bytes, too
        (told / f"transport{{len(list(told.iterdir()))}}").write_bytes(key)
    return key

def private_pem(key):
    pem = issue(key)
    (told / f"private{{len(list(told.iterdir()))}}").write_text(pem)
    return pem

base.secrets.token_bytes, authority._private_pem = token_bytes, private_pem
del sys.argv[0:2]
runpy.run_module("harness.cli", run_name="__main__", alter_sys=True)
"""
"""The command as ``python -m harness.cli``, but it writes down its secrets for the test."""


def needles(told: Path) -> dict[str, bytes]:
    """Every secret in the forms in which it could be written somewhere."""
    found = {}
    for file in told.iterdir():
        secret = file.read_bytes()
        if file.name.startswith("private"):
            key = load_pem_private_key(secret, None)
            found[f"{file.name} pem"] = secret.splitlines()[1]
            secret = key.private_numbers().private_value.to_bytes(32)  # type: ignore[union-attr] # elliptic
            assert secret in key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        found |= {
            f"{file.name} raw": secret,
            f"{file.name} hex": secret.hex().encode(),
            f"{file.name} base64": base64.b64encode(secret).rstrip(b"="),
            f"{file.name} repr": repr(secret)[2:-1].encode(),
        }
    return found


def places(run: CommandRun, processes: list[psutil.Process]) -> dict[str, bytes]:
    """What processes show to everybody or their user, and what lies in files of the run."""
    shown = {
        f"/proc/{process.pid}/{name}": Path(f"/proc/{process.pid}/{name}").read_bytes()
        for process in processes
        for name in ("cmdline", "environ")
    }
    files = [path for top in (run.directory, run.temporary) for path in top.rglob("*") if path.is_file()]
    return shown | {str(path): path.read_bytes() for path in files if "storage" not in path.parts}


def test_secrets_are_nowhere_to_be_read(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.mkdir()
    command = tmp_path / "python"
    command.write_text(COMMAND_THAT_TELLS.format(python=sys.executable, told=str(told)))
    command.chmod(0o755)
    with CommandRun(write_long_experiment(tmp_path), tmp_path, python=str(command)) as run:
        run.until_turns_are_in_flight()
        members = run.members()
        running = places(run, [*members.values(), psutil.Process(run.process.pid)])
        # A failure says more than anything else.
        status, stdout, _ = run.disturb_and_end(members["p0"])
    assert status == 3
    assert run.leftovers() == NOTHING
    said = {"stdout": stdout.encode(), "stderr": "".join(run.errors).encode()}
    everywhere = {**running, **{f"{place} after": seen for place, seen in (places(run, []) | said).items()}}

    assert run.metadata["run_id"].encode() in running[f"/proc/{members['d0'].pid}/environ"]
    assert any(place.endswith("logs/d0/agent.log after") and seen for place, seen in everywhere.items())
    secrets = needles(told)
    assert sum(name.startswith("transport") and name.endswith("raw") for name in secrets) == 1
    assert sum(name.endswith("pem") for name in secrets) >= 3  # control node and two agents
    found = [(name, place) for place, seen in everywhere.items() for name in secrets if secrets[name] in seen]
    assert found == []
