"""Which launchers can be tested here, each in a lab: hosts that are network namespaces of this machine.

So what a launcher does on a host can be looked at from here: processes and files are this machine's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any, NamedTuple

from racks.base import SPEC
from racks.labs import NO_NAMESPACES, RACKS

from harness.cluster.emulated import EmulatedCluster
from harness.inventory import load_inventory
from harness.launchers import Launcher, open_launcher
from harness.launchers.local import LocalLauncher

TEST_TIMEOUT_S = 60.0
Inside = Callable[[Callable[[], None]], None]


class Lab(NamedTuple):
    """Two hosts or more that are up. ``inside`` calls something where the control node is, on its network;
    commands with ``prefix`` run there. 'local' has no ``inventory`` file: its hosts live in this process."""

    hosts: tuple[str, ...]
    opened: Callable[[], AbstractAsyncContextManager[Launcher]]
    inside: Inside
    prefix: tuple[str, ...] = ()
    inventory: Path | None = None

    def over(self, test: Callable[[Launcher], Coroutine[Any, Any, None]]) -> None:
        """Run a test over a launcher of its own."""

        async def run() -> None:
            async with asyncio.timeout(TEST_TIMEOUT_S), self.opened() as launcher:
                await test(launcher)

        self.inside(lambda: asyncio.run(run()))


class Kind(NamedTuple):
    """A launcher: its lab, raised in a directory, and why that does not work on this machine, or None."""

    lab: Callable[[Path], AbstractContextManager[Lab]]
    obstacle: str | None


@contextmanager
def local_lab(directory: Path) -> Iterator[Lab]:
    with EmulatedCluster(SPEC, scratch_parent=directory, state_dir=directory / "state") as cluster:

        @asynccontextmanager
        async def opened() -> AsyncIterator[Launcher]:
            launcher = LocalLauncher(cluster)
            try:
                yield launcher
            finally:
                await launcher.close()

        # Its processes are tied to the thread that starts them: that of the tests, which lasts.
        yield Lab(tuple(host.name for host in cluster.hosts), opened, lambda action: action())


def rack_lab(kind: str) -> Callable[[Path], AbstractContextManager[Lab]]:
    """Of the racks of integration tests."""

    @contextmanager
    def raised(directory: Path) -> Iterator[Lab]:
        with RACKS[kind].lab(directory, SPEC) as rack:
            inventory = load_inventory(rack.inventory)
            names = tuple(host.name for host in inventory.hosts)
            yield Lab(names, lambda: open_launcher(inventory), rack.inside, rack.prefix, rack.inventory)

    return raised


KINDS = {
    "local": Kind(local_lab, NO_NAMESPACES),
    **{kind: Kind(rack_lab(kind), rack.obstacle) for kind, rack in RACKS.items()},
}
