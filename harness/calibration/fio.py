"""fio(1) on a host, beside what the agent reads from the same files."""

from __future__ import annotations

import json

from harness.host_error import HostError
from harness.launchers import Launcher
from harness.preparation import Preparation
from harness.sites.base import SiteHost

_TIMEOUT_S = 30.0
_NO_SUCH_COMMAND = 127
_ENGINES = {"io_uring": "io_uring", "threads": "psync", "nixl": "io_uring"}


async def fio_read_bytes_per_s(
    launcher: Launcher, host: SiteHost, preparation: Preparation, seconds: float
) -> float | None:
    """Its rate with the experiment's chunk, depth and cache mode; None where storage is no directory, or
    there is no fio. Raises HostError if it fails."""
    if not host.storage.root:
        return None
    storage = preparation.experiment.storage
    files = ":".join(f"{host.storage.root}/{stored.key}" for stored in preparation.ceiling_objects())
    argv = [
        "fio", "--name=ceiling", f"--filename={files}", "--rw=read", f"--bs={storage.read_chunk_bytes}",
        f"--iodepth={storage.read_streams}", f"--ioengine={_ENGINES[storage.engine]}",
        f"--direct={int(storage.cache == 'direct')}", "--time_based=1", "--ramp_time=0.3",
        f"--runtime={seconds:g}", "--readonly", "--output-format=json",
    ]  # fmt: skip
    done = await launcher.run(host.name, argv, timeout_s=seconds + _TIMEOUT_S)
    if done.status == _NO_SUCH_COMMAND:
        return None
    if done.status != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(host.name, f"fio ended with {done.status}: {' '.join(said[-2:])}")
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])
