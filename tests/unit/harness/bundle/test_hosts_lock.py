"""The lock of what hosts need: exactly what their code imports, in the versions that are tested."""

from __future__ import annotations

import ast
import sys
from importlib import metadata
from pathlib import Path

import hosts
import workloads
from harness.bundle.lock import lock_text, locked

REQUIREMENTS = Path(__file__).parents[4] / "requirements"
NOT_BUNDLED = {"nixl_cu12", "pooch", "pyverbs", "torch"}
"""Of the host's own software, or of the control node's commands; each is imported by who asks for it."""


def imported(package: Path) -> set[str]:
    """Top-level names of what a package imports."""
    names: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def test_it_has_what_the_code_of_hosts_imports_and_nothing_else() -> None:
    names = imported(Path(hosts.__path__[0])) | imported(Path(workloads.__path__[0]))
    third_parties = names - sys.stdlib_module_names - {"hosts", "workloads"} - NOT_BUNDLED
    distributions = metadata.packages_distributions()
    needed = {distributions[name][0].lower() for name in third_parties}
    asked = (REQUIREMENTS / "hosts.in").read_text(encoding="utf-8").splitlines()
    assert needed == {line for line in asked if not line.startswith(("#", "-"))}
    assert needed <= {requirement.partition("==")[0] for requirement in locked(lock_text())}


def test_it_has_the_versions_and_files_that_are_tested() -> None:
    tested = locked((REQUIREMENTS / "dev.lock").read_text(encoding="utf-8"))
    for requirement, hashes in locked(lock_text()).items():
        assert hashes <= tested[requirement]


def test_every_line_of_it_is_read_and_it_names_no_index() -> None:
    text = lock_text()
    assert len(locked(text)) == text.count("==")
    assert sum(map(len, locked(text).values())) == text.count("--hash=")
    assert "://" not in text
    assert "index" not in text.replace("--no-emit-index-url", "")
