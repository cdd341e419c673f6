"""Inventories: the hosts of a rack, what they have, and how they are reached."""

from harness.inventory.files import load_inventory
from harness.inventory.sections import (
    ANY_NODE,
    ComputeNic,
    Inventory,
    InventoryHost,
    LauncherSection,
    RayLauncher,
    SlurmLauncher,
    SshLauncher,
    StorageNic,
    StoragePlace,
)

__all__ = [
    "ANY_NODE",
    "ComputeNic",
    "Inventory",
    "InventoryHost",
    "LauncherSection",
    "RayLauncher",
    "SlurmLauncher",
    "SshLauncher",
    "StorageNic",
    "StoragePlace",
    "load_inventory",
]
