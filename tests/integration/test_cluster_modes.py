"""The same cluster without privileges: the command runs itself again inside a user namespace."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534

REPLAY = """
import json, os, sys
from pathlib import Path
from harness.cluster import ClusterSpec, inside_user_namespace, open_cluster, probe, reexec_in_user_namespace
choice = probe()
if choice.mode == "user_namespaces" and not inside_user_namespace():
    reexec_in_user_namespace(sys.orig_argv)
tmp = Path(sys.argv[1])
spec = ClusterSpec(1, 1, 12.5e6, 25e6)
with open_cluster(spec, choice.mode, scratch_parent=tmp, state_dir=tmp / "s") as cluster:
    cluster.enter_control_namespace()
    (cluster.storage_root / "block").write_bytes(b"kv")
    log = cluster.scratch / "log"
    read = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read())"
    status = cluster.spawn("p0", [sys.executable, "-c", read, cluster.storage_url + "/block"], log).wait(20)
    answer = {"mode": cluster.mode, "why": choice.unavailable, "status": status, "log": log.read_text(),
              "pid": os.getpid()}
    print(json.dumps(answer), flush=True)
    if sys.argv[2] == "wait":
        cluster.spawn("p0", ["sleep", "60"], log).wait()
raise SystemExit(7)
"""


def drop_privileges() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


def unprivileged_python() -> str | None:
    """A Python of our version that an unprivileged user can start; root's own may be out of its reach."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, system):
        # By way of a shell: setpriv itself could still have root's way past a directory's mode.
        argv = [*drop_privileges(), "sh", "-c", 'exec "$0" -c pass', candidate]
        if subprocess.run(argv, capture_output=True, cwd="/").returncode == 0:
            return candidate
    return None


def obstacle() -> str | None:
    if PYTHON is None:
        return "no Python that an unprivileged user can start"
    argv = [
        *drop_privileges(),
        PYTHON,
        "-B",
        "-c",
        "from harness.cluster import probe; probe('user_namespaces')",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), cwd="/")
    if "ModuleNotFoundError" in done.stderr:
        return f"the unprivileged user cannot read the checkout {ROOT} or {sysconfig.get_path('purelib')}"
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DUALPATH_", "XDG_"))}
    paths = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


PYTHON = unprivileged_python()
OBSTACLE = obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"no user namespaces: {OBSTACLE}"),
]


@pytest.fixture
def private_dir(tmp_path: Path) -> Path:
    """A directory of the unprivileged user; pytest's own is readable by its maker alone."""
    if os.geteuid() == 0:
        made = Path(
            subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip()
        )
        os.chown(made, NOBODY, NOBODY)
        return made
    return tmp_path


def start(directory: Path, then: str) -> subprocess.Popen[str]:
    # Who is started in the background of a script ignores SIGINT, and so does all that it starts.
    interruptible = ["env", "--default-signal=INT"]
    argv = [*interruptible, *drop_privileges(), str(PYTHON), "-c", REPLAY, str(directory), then]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment(), cwd="/")


def test_unprivileged_run_reads_over_shaped_links_and_passes_its_status_on(private_dir: Path) -> None:
    with start(private_dir, "exit") as run:
        assert run.stdout is not None
        answer = json.loads(run.stdout.readline())
        assert run.wait(30) == 7
    assert answer["mode"] == "user_namespaces"
    assert list(answer["why"]) == ["network_namespaces"]
    assert (answer["status"], answer["log"]) == (0, "b'kv'\n")
    assert answer["pid"] == run.pid
    assert list(private_dir.iterdir()) == []
    private_dir.rmdir()


def test_interrupt_reaches_the_run_and_it_cleans_up(private_dir: Path) -> None:
    with start(private_dir, "wait") as run:
        assert run.stdout is not None
        json.loads(run.stdout.readline())
        run.send_signal(signal.SIGINT)
        assert run.wait(30) in (-signal.SIGINT, 130)
    assert list(private_dir.iterdir()) == []
    private_dir.rmdir()


def test_cleanup_outside_finds_what_a_killed_run_inside_left(private_dir: Path) -> None:
    with start(private_dir, "wait") as run:
        assert run.stdout is not None
        json.loads(run.stdout.readline())
        run.kill()
    script = "import sys; from pathlib import Path; from harness.cluster import cleanup; "
    script += "print(*cleanup(Path(sys.argv[1]) / 's'), sep='\\n')"
    argv = [*drop_privileges(), str(PYTHON), "-c", script, str(private_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), cwd="/", check=True)
    kinds = [line.split()[0] for line in done.stdout.splitlines()]
    assert kinds[-2:] == ["directory", "record"]
    assert list(private_dir.iterdir()) == []
    private_dir.rmdir()
