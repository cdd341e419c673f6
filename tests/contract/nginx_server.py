"""A private nginx on loopback, as the HTTP store under test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {prefix}/pid; error_log {prefix}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; client_max_body_size 0; keepalive_requests {keepalive};
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  server {{
    listen 127.0.0.1:{port}; root {prefix}/root;
    location / {{ dav_methods PUT DELETE; create_full_put_path on; limit_rate {rate}; }}
  }}
}}
"""


@contextmanager
def nginx(
    prefix: Path, keepalive_requests: int = 1000, bytes_per_s: int = 0
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and the URL it serves ``prefix``/root at; stopped on leaving. 0: no limit of the rate."""
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (prefix / "root").mkdir(parents=True)
    config = prefix / "nginx.conf"
    config.write_text(
        _CONFIG.format(prefix=prefix, port=port, keepalive=keepalive_requests, rate=bytes_per_s)
    )
    with (prefix / "log").open("wb") as log:
        process = subprocess.Popen(
            [NGINX, "-p", prefix, "-e", prefix / "error.log", "-c", config],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
        )
    try:
        _wait_until_served(process, port, prefix)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_until_served(process: subprocess.Popen[bytes], port: int, prefix: Path) -> None:
    end_at = time.monotonic() + 10
    while time.monotonic() < end_at and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"nginx does not serve port {port}: {(prefix / 'log').read_text()}")
