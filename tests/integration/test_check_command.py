"""``dualpath check`` of a rack behind sshd with something wrong: found before anything runs there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from racks.sshd_lab import OBSTACLE, SshdLab, sshd_lab

from harness.cluster import probe

NO_NAMESPACES = probe().unavailable.get("network_namespaces")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no network namespaces: {NO_NAMESPACES}"),
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no sshd: {OBSTACLE}"),
]
OLD_PYTHON = f"""#!{sys.executable}
import platform, sys
platform.python_version = lambda: "3.9.2"
sys.version_info = (3, 9, 2, "final", 0)
sys.argv = sys.argv[1:]
exec(compile(sys.stdin.read(), "-", "exec"))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdLab]:
    with sshd_lab(tmp_path_factory.mktemp("rack")) as raised:
        yield raised


class Finding(NamedTuple):
    """An error: of which host, what was found and expected, and what is to be done."""

    host: str
    check: str
    evidence: str
    fix: str


class Rack:
    """The lab under an inventory of a test's own."""

    def __init__(self, lab: SshdLab, file: Path) -> None:
        self.lab, self.file = lab, file

    def check(
        self, hosts: Mapping[str, Mapping[str, Any]] | None = None, top: str = "", **launcher: Any
    ) -> subprocess.CompletedProcess[str]:
        """The command; ``top`` are keys of the inventory's own."""
        self.lab.write_inventory(self.file, hosts, **launcher)
        self.file.write_text(top + self.file.read_text())
        command = [*self.lab.prefix, sys.executable, "-m", "harness.cli", "check"]
        options = ["--inventory", str(self.file), "--json"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done

    def errors(self, status: int = 1, **inventory: Any) -> list[Finding]:
        """All that is wrong; a finding is whole and one line."""
        done = self.check(**inventory)
        assert (done.returncode, done.stderr) == (status, "")
        errors = [f for f in json.loads(done.stdout)["findings"] if f.pop("severity") == "error"]
        found = [Finding(**error) for error in errors]
        assert all(all(finding) and "\n" not in finding.evidence + finding.fix for finding in found)
        return found


@pytest.fixture
def rack(lab: SshdLab, tmp_path: Path) -> Rack:
    return Rack(lab, tmp_path / "rack.toml")


@contextmanager
def mounted(lab: SshdLab, host: str, place: Path, options: str) -> Iterator[None]:
    """A tmpfs that only that host sees, in the mount namespace of its sshd."""
    sshd = next(process for process in lab.processes(host) if process.name() == "sshd")
    there = ["nsenter", f"--mount=/proc/{sshd.pid}/ns/mnt", "--"]
    subprocess.run([*there, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run([*there, "umount", str(place)], check=True)


def test_host_keys_that_are_not_known(rack: Rack, tmp_path: Path) -> None:
    nobody = tmp_path / "known_hosts"
    nobody.touch()
    found = rack.errors(status=3, known_hosts=str(nobody))
    assert [(f.host, f.check) for f in found] == [(host, "reachable") for host in rack.lab.hosts]
    for finding in found:
        assert finding.evidence.startswith("its host key is not known: ssh-ed25519 SHA256:")
        assert "ssh-keygen -lf" in finding.fix
        assert f">> {nobody}" in finding.fix
    lines = (finding.fix.partition("echo '")[2].partition("'")[0] for finding in found)
    nobody.write_text("".join(f"{line}\n" for line in lines))
    assert rack.errors(status=0, known_hosts=str(nobody)) == []


def test_a_user_who_is_not_let_in(rack: Rack) -> None:
    (found,) = rack.errors(hosts={"d0": {"user": "nobody-of-that-name"}})
    assert (found.host, found.check) == ("d0", "reachable")
    assert found.evidence.startswith("permission denied for user nobody-of-that-name at ")
    assert "ssh-copy-id -i" in found.fix
    assert "or set 'user' or 'key' in the inventory" in found.fix


def test_a_python_that_is_too_old(rack: Rack, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(OLD_PYTHON)
    old.chmod(0o755)
    found = rack.errors(top=f'python = "{old}"\n')
    assert [(f.host, f.check) for f in found] == [(host, "python") for host in rack.lab.hosts]
    assert re.fullmatch(r"found 3\.9\.2 \(.+\), expected 3\.11 or newer", found[0].evidence)
    assert 'python = "python3.11"' in found[0].fix


def test_a_python_that_is_not_there(rack: Rack) -> None:
    found = rack.errors(status=3, top='python = "python3.99"\n')
    assert [(f.host, f.check) for f in found] == [(host, "python") for host in rack.lab.hosts]
    assert "'python3.99 -' ended with exit status 127" in found[0].evidence
    assert found[0].fix == "install python3.99 there, or name another in the inventory (python)"


def test_a_store_that_is_not_mounted(rack: Rack) -> None:
    (found,) = rack.errors(hosts={"d0": {"storage": {"mount": "/mnt/no-such-store"}}})
    assert (found.host, found.check) == ("d0", "storage")
    assert found.evidence.startswith("/mnt/no-such-store: no such directory, on ")
    assert "or correct storage.mount in the inventory" in found.fix


def test_a_store_that_is_full(rack: Rack, tmp_path: Path) -> None:
    with mounted(rack.lab, "d0", tmp_path, "size=4k"):
        (found,) = rack.errors(hosts={"d0": {"storage": {"mount": str(tmp_path)}}})
    assert (found.host, found.check) == ("d0", "storage")
    assert "No space left on device" in found.evidence


def test_a_directory_that_nothing_can_be_run_from_and_has_no_room(rack: Rack) -> None:
    with mounted(rack.lab, "d0", rack.lab.home, "size=8m,noexec"):
        noexec, small = rack.errors()
    assert {(f.host, f.check) for f in (noexec, small)} == {("d0", "directory")}
    assert noexec.evidence.endswith("is on a file system that nothing may be run from (noexec)")
    assert "(as root, once; dualpath itself never uses sudo)" in noexec.fix
    assert re.search(r"found 8\.\d+ MB free, expected 250 MB for the bundle", small.evidence)


def test_one_host_under_two_names(rack: Rack, tmp_path: Path) -> None:
    """Which the file cannot show: an address written in two ways."""
    address = rack.lab.hosts["p0"].management_address
    known = rack.lab.known_hosts.read_text()
    again = "".join(f"::ffff:{line}\n" for line in known.splitlines() if line.startswith(f"{address} "))
    both = tmp_path / "known_hosts"
    both.write_text(known + again)
    found = rack.errors(hosts={"d0": {"address": f"::ffff:{address}"}}, known_hosts=str(both))
    assert (found[0].host, found[0].check) == ("d0", "one role a host")
    assert found[0].evidence.startswith("is the same host as p0 (")
    assert found[0].fix.startswith("take p0 or d0 out of the inventory")


def test_nics_that_are_mistaken_for_each_other(rack: Rack) -> None:
    nics = {nic.network: {"name": nic.name} for nic in rack.lab.hosts["d0"].nics}
    mistaken = {"storage_nic": nics["compute"], "compute_nics": [nics["storage"]]}
    found = {(f.host, f.check): f for f in rack.errors(hosts={"d0": mistaken})}
    assert found.keys() == {("p0", "compute network"), ("d0", "compute network"), ("d0", "storage path")}
    assert "is reached through stor0" in found["d0", "storage path"].evidence
    assert found["d0", "storage path"].fix.startswith("name stor0 as storage_nic")
    assert "name the right interface in compute_nics" in found["d0", "compute network"].fix


def test_an_inventory_that_is_none(rack: Rack) -> None:
    """No host is asked."""
    done = rack.check(hosts={"d0": {"name": "p0"}})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"dualpath: {rack.file}: hosts: found name 'p0' 2 times (p0, p0), expected a host "
    )
    assert line.count("2 times") == 1


def test_nothing_was_left_on_the_hosts(lab: SshdLab) -> None:
    assert [path for host in lab.hosts for path in (lab.directory / "hosts" / host).iterdir()] == []
    assert list(lab.cluster.storage_root.iterdir()) == []
