"""Our own code as a wheel."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64decode
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness.bundle.code_wheel import code_wheel, wheel_of

NAMES = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(NAMES, st.binary(max_size=100), max_size=5))
def test_a_wheel_holds_its_files_and_a_true_record_of_them(files: dict[str, bytes]) -> None:
    wheel = wheel_of("a-b", "1.2", files)
    assert wheel == wheel_of("a-b", "1.2", dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    record = content.pop("a_b-1.2.dist-info/RECORD").decode()
    assert files.items() <= content.items()
    recorded = {name: (digest, size) for name, digest, size in csv.reader(record.splitlines())}
    assert recorded.pop("a_b-1.2.dist-info/RECORD") == ("", "")
    assert recorded.keys() == content.keys()
    for name, (digest, size) in recorded.items():
        assert (
            urlsafe_b64decode(f"{digest.removeprefix('sha256=')}=") == hashlib.sha256(content[name]).digest()
        )
        assert int(size) == len(content[name])


def test_only_sources_count(tmp_path: Path) -> None:
    package = tmp_path / "hosts"
    package.mkdir()
    (package / "agent.py").write_text("1")
    wheel = code_wheel([package])
    (package / "__pycache__").mkdir()
    (package / "__pycache__/agent.pyc").write_text("2")
    (package / ".agent.py.swp").write_text("3")
    os.utime(package / "agent.py", (0, 0))
    assert code_wheel([package]) == wheel
    (package / "agent.py").write_text("4")
    assert code_wheel([package]) != wheel


def test_pip_installs_our_code(tmp_path: Path) -> None:
    wheel = tmp_path / "dualpath_testbed-0.1.0-py3-none-any.whl"
    wheel.write_bytes(code_wheel())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(wheel)], timeout=60, check=True)
    assert (tmp_path / "site/hosts/agent.py").exists()
    assert (tmp_path / "site/workloads/experiments/demo.toml").exists()
