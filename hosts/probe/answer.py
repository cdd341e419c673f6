"""The whole answer: every part in a thread of its own, so that a mount that hangs hides nothing else."""

import json
import os
import sys
import threading
import time
from typing import Callable, Dict, List

from hosts.probe import gpus, network, reach, storage, system
from hosts.probe.reading import Facts, reason

_INTERVAL_S = 0.5
"""Over which the host's load is measured, before anything else is done."""
_DEADLINE_S = 20.0


def main(questions: Facts) -> None:
    """Print the answer as one line of JSON, and end without waiting for what hangs."""
    sys.stdout.write(json.dumps(answer(questions)) + "\n")
    sys.stdout.flush()
    os.close(sys.stdout.fileno())  # a thread inside a dead mount keeps the process: not its caller, too
    os._exit(0)


def answer(questions: Facts) -> Facts:
    """Everything that is asked about this host, ``error`` in the place of what cannot be said.

    ``directory`` is dualpath's own; ``stores`` are ``{"mount": ...}`` or ``{"url": ...}``. Or, by itself,
    ``reach``: for each NIC, from which address to look for which peers.
    """
    began_at_s = time.time()
    if "reach" in questions:
        looking = [_Part(lambda nic=nic: reach.reach(**nic)) for nic in questions["reach"]]  # type: ignore[misc]
        facts: Facts = {"reach": _all(looking)}
    else:
        facts = _look(questions)
    facts.update(began_at_s=began_at_s, ended_at_s=time.time())
    return facts


def _look(questions: Facts) -> Facts:
    ticks, traffic, begin_at = system.ticks(), network.traffic(), time.monotonic()
    time.sleep(_INTERVAL_S)
    ticks_now, traffic_now = system.ticks(), network.traffic()
    seconds = time.monotonic() - begin_at
    parts: Dict[str, Callable[[], Facts]] = {
        "machine": system.machine,
        "python": system.python,
        "directory": lambda: system.directory(questions["directory"]),
        "memory": system.memory,
        "load": lambda: system.load(ticks, ticks_now),
        "tools": system.tools,
        "lock": system.lock,
        "network": lambda: network.interfaces(traffic, traffic_now, seconds),
        "rdma": lambda: network.rdma_ports(traffic, traffic_now, seconds),
        "gpus": gpus.gpus,
        "mounts": storage.network_mounts,
    }
    stores: List[Facts] = questions["stores"]
    trying = [_Part(lambda store=store: storage.try_store(store)) for store in stores]  # type: ignore[misc]
    running = [_Part(part) for part in parts.values()]
    facts: Facts = dict(zip(parts, _all(running)))
    facts["stores"] = [dict(store, **found) for store, found in zip(stores, _all(trying))]
    return facts


class _Part(threading.Thread):
    """One question, being answered; ``facts`` once it is."""

    def __init__(self, ask: Callable[[], Facts]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.facts: Facts = {"error": f"no answer within {_DEADLINE_S:g} s"}
        self.start()

    def run(self) -> None:
        """The answer, or why there is none."""
        try:
            self.facts = self._ask()
        except Exception as error:
            self.facts = {"error": reason(error)}


def _all(parts: List[_Part]) -> List[Facts]:
    until_at = time.monotonic() + _DEADLINE_S
    for part in parts:
        part.join(max(0.0, until_at - time.monotonic()))
    return [part.facts for part in parts]
