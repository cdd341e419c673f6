"""Launchers start agents on hosts and say how they ended. Each imports its own library, when asked."""

from harness.launchers.base import Completed, Launcher, Started

__all__ = ["Completed", "Launcher", "Started"]
