"""Files of known host keys that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host_error import HostError
from harness.launchers.ssh.trust import KnownHosts


def test_a_file_that_is_not_there_is_named_and_how_to_make_it(tmp_path: Path) -> None:
    missing = tmp_path / "known hosts"
    with pytest.raises(HostError) as error:
        KnownHosts(str(missing))
    assert str(error.value) == (
        f"host control: launcher.known_hosts: {missing}: cannot be read: No such file or directory; fix: "
        f"ssh-keyscan HOST >> '{missing}' (and compare with the host's own), or correct launcher.known_hosts"
    )
