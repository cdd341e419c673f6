import sys
from pathlib import Path

import pytest

from harness.cluster import ClusterError, ClusterSpec, cleanup, open_cluster, probe
from harness.cluster.storage_server import server_config

SPEC = ClusterSpec(1, 2, 12.5e6, 25e6)


def test_same_interface_without_namespaces(tmp_path: Path) -> None:
    with open_cluster(SPEC, "loopback", scratch_parent=tmp_path, state_dir=tmp_path / "state") as cluster:
        assert [(h.name, h.role) for h in cluster.hosts] == [
            ("storage", "storage"),
            ("p0", "prefill"),
            ("d0", "decode"),
            ("d1", "decode"),
        ]
        assert (cluster.mode, cluster.storage_url, cluster.storage_processes) == ("loopback", "", ())
        assert (cluster.storage_pace_bytes_per_s, cluster.compute_pace_bytes_per_s) == (12.5e6, 25e6)
        assert cluster.storage_root.is_dir()
        cluster.enter_control_namespace()
        log = tmp_path / "d1.log"
        assert cluster.spawn("d1", [sys.executable, "-c", "print('up')"], log).wait(10) == 0
        assert log.read_text() == "up\n"
        lasting = cluster.spawn("p0", ["sleep", "60"], tmp_path / "p0.log")
        with pytest.raises(ClusterError, match="host 'p7': not in the cluster"):
            cluster.spawn("p7", ["true"], log)
    assert lasting.returncode == -9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d1.log", "p0.log"]


def test_the_first_error_wins_and_names_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = open_cluster(SPEC, "loopback", scratch_parent=tmp_path, state_dir=tmp_path / "state")

    def fail(*_: object) -> None:
        raise OSError("directory is busy")

    def measure() -> None:
        with cluster:
            monkeypatch.setattr("harness.cluster.ledger.shutil.rmtree", fail)
            raise ValueError("measuring failed")

    with pytest.raises(ValueError, match="measuring failed") as caught:
        measure()
    assert caught.value.__notes__ == ["taking the cluster down failed, too: directory is busy"]
    monkeypatch.undo()
    assert f"directory {cluster.scratch}" in cleanup(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_probe_honours_the_request_and_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe("loopback").mode == "loopback"
    monkeypatch.setenv("DUALPATH_MODE", "loopback")
    assert probe().mode == "loopback"
    with pytest.raises(ClusterError, match="found 'cloud', expected one of network_namespaces"):
        probe("cloud")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=r"does not work here: ip, tc, .* not found; fix: apt-get install"):
        probe("network_namespaces")
    monkeypatch.delenv("DUALPATH_MODE")
    assert set(probe().unavailable) == {"network_namespaces", "user_namespaces"}


def test_server_config_writes_only_below_its_prefix() -> None:
    config = server_config(Path("/s/nginx"), Path("/s/storage"), "10.78.0.2", 8080, "feed", "direct")
    assert "listen 10.78.0.2:8080 " in config
    assert "directio 4k;" in config
    assert config.count("/s/nginx/") == 6
    assert "sendfile on;" in server_config(Path("/s"), Path("/r"), "127.0.0.1", 1, "feed", "page")
