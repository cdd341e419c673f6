"""The one exception of the emulated cluster."""

from __future__ import annotations


class ClusterError(Exception):
    """The testbed could not be set up, watched or taken down; the message says what, where and what to do."""
