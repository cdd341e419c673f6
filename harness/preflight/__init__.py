"""Preflight: what hosts are like, found out before anything runs on them, and what is wrong with that."""

from harness.preflight.examine import Preflight, examine
from harness.preflight.facts import HostFacts
from harness.preflight.findings import Finding
from harness.preflight.judgement import findings
from harness.preflight.needs import Needs, needs_of

__all__ = ["Finding", "HostFacts", "Needs", "Preflight", "examine", "findings", "needs_of"]
