"""nginx as the storage host's server: GET with ranges, PUT, DELETE on a directory.

One process in the foreground that writes only below its own prefix. Blocks are files; a read is
``GET /key`` with ``Range``, a write is ``PUT /key`` (ngx_http_dav_module).
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
from pathlib import Path

from harness.cluster.errors import ClusterError
from harness.cluster.namespaces import NetworkNamespace
from harness.cluster.processes import RunProcesses
from hosts.config import CacheMode

STORAGE_PORT = 8080

_PROGRAM = "nginx"
# Often outside an ordinary user's PATH.
_SEARCH_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
_IDENTITY_PATH = "/.dualpath-run"
_READY_TIMEOUT_S = 10.0
_POLL_S = 0.01

# Cache mode decides what a read costs: memory ("page"), or the disk every time ("direct": O_DIRECT, threads).
_FILE_READING: dict[CacheMode, str] = {
    "page": "sendfile on;",
    "direct": "sendfile off; directio 4k; directio_alignment 4k; aio threads; output_buffers 2 256k;",
}


def server_config(prefix: Path, root: Path, address: str, port: int, run_id: str, cache: CacheMode) -> str:
    """The nginx configuration: files under ``root`` served at ``address:port``, all else in ``prefix``."""
    temporary = " ".join(
        f"{kind}_temp_path {prefix}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # One process: its end is the server's end, and there is no worker that could outlive a killed master.
    # It stays the user it is; in a user namespace "nobody", nginx's default, does not exist.
    return f"""user root;
daemon off;
master_process off;
pid {prefix}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {temporary}
    {_FILE_READING[cache]}
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_max_body_size 0;
    server {{
        listen {address}:{port} backlog=1024;
        location = {_IDENTITY_PATH} {{ return 200 "{run_id}"; }}
        location / {{
            root {root};
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"""


def start_storage_server(
    processes: RunProcesses,
    prefix: Path,
    root: Path,
    log: Path,
    namespace: NetworkNamespace | None = None,
    address: str = "127.0.0.1",
    port: int = STORAGE_PORT,
    cache: CacheMode = "page",
) -> subprocess.Popen[bytes]:
    """Start nginx and wait until it answers; ``processes`` owns it. ``prefix`` and ``root`` must exist.

    Raises ClusterError when nginx is missing, the port is taken, or it does not answer within 10 s.
    """
    program = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=_SEARCH_PATH)
    if program is None:
        raise ClusterError("the storage server, nginx, is not installed; fix: apt-get install nginx-light")
    config = prefix / "nginx.conf"
    config.write_text(server_config(prefix, root, address, port, processes.run_id, cache))
    argv = [program, "-e", "stderr", "-p", str(prefix), "-c", str(config)]
    process = processes.spawn(argv, namespace.path if namespace else None, log)

    def identity() -> str | None:
        return _identity(address, port)

    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        answer = namespace.run(identity) if namespace else identity()
        if answer == processes.run_id:
            return process
        if answer is not None:
            raise ClusterError(f"storage server at {address}:{port}: port in use; fix: free it")
        try:
            # Waiting for its end is the pause between two tries: a server that gives up is noticed at once.
            status = process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            status = None
        if status is not None:
            raise ClusterError(f"storage server at {address}:{port} ended with {status}: {_complaint(log)}")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"storage server at {address}:{port} did not answer in time: {_complaint(log)}"
            )


def _identity(address: str, port: int) -> str | None:
    """What answers there: nobody (None), ours (the run's id), or something else (any other text)."""
    connection = http.client.HTTPConnection(address, port, timeout=1.0)
    try:
        connection.request("GET", _IDENTITY_PATH)
        return connection.getresponse().read(64).decode("latin-1")
    except http.client.HTTPException as error:
        return f"not HTTP: {error}"
    except (TimeoutError, ConnectionError):
        return None
    finally:
        connection.close()


def _complaint(log: Path) -> str:
    """The first thing nginx gave up over ([emerg]), which later lines only repeat; else its last words."""
    lines = log.read_text(errors="replace").strip().splitlines() or [f"{log} is empty"]
    return next((line for line in lines if "[emerg]" in line), lines[-1])
