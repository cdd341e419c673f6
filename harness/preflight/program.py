"""`hosts.probe` as one script for a host's ``python3 -``, on which nothing of ours is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

_PACKAGE = "hosts.probe"
_MODULES = ("reading", "netlink", "network", "system", "gpus", "storage", "reach", "answer")
"""In the order in which they import each other."""

# This much, any Python understands: one too old for the rest says so. What lies in the folder that a host
# happens to run commands in is none of the standard library.
_SCRIPT = """\
import sys
if "" in sys.path:
    sys.path.remove("")
if sys.version_info < (3, 6):
    found = "%d.%d.%d" % sys.version_info[:3]
    sys.stdout.write('{{"python": {{"version": "%s", "executable": "%s"}}}}\\n' % (found, sys.executable))
    sys.exit()
import json, types
def add(name, source, package=False):
    module = sys.modules[name] = types.ModuleType(name)
    if package:
        module.__path__ = []
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    exec(compile(source, name, "exec"), module.__dict__)
add("hosts", "", True)
add("{package}", "", True)
for name, source in {sources}:
    add("{package}." + name, source)
sys.modules["{package}.answer"].main(json.loads({questions}))
"""


def program(questions: Mapping[str, Any]) -> bytes:
    """The script that prints the answer to ``questions`` (`hosts.probe.answer`) as one line of JSON."""
    folder = resources.files(_PACKAGE)
    sources = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    script = _SCRIPT.format(package=_PACKAGE, sources=ascii(sources), questions=ascii(json.dumps(questions)))
    return script.encode("ascii")
