"""GPU work: `timed` waits as long as the kernels would take on the profile's GPU."""

from hosts.compute.timed import TimedCompute, TimedPrefill

__all__ = ["TimedCompute", "TimedPrefill"]
