"""GPU work: `timed` waits as long as it would take by the profile, `torch` does it."""

from hosts.compute.base import (
    CachedKv,
    Chunk,
    Compute,
    ComputeError,
    Decoding,
    Forward,
    PassKv,
    ResidentKv,
    all_layers,
    in_step,
)
from hosts.compute.measured import prediction_of
from hosts.compute.nic_path import NicPath
from hosts.compute.opening import open_compute
from hosts.compute.prediction import Piece, Prediction

__all__ = [
    "CachedKv",
    "Chunk",
    "Compute",
    "ComputeError",
    "Decoding",
    "Forward",
    "NicPath",
    "PassKv",
    "Piece",
    "Prediction",
    "ResidentKv",
    "all_layers",
    "in_step",
    "open_compute",
    "prediction_of",
]
