"""GPU work: `timed` waits as long as the kernels would take on the profile's GPU."""

from hosts.compute.timed import CopyEngine, Piece, StageClock, TimedCompute, in_step, sleep_until

__all__ = ["CopyEngine", "Piece", "StageClock", "TimedCompute", "in_step", "sleep_until"]
