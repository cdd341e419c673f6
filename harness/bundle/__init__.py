"""Bundles: what an agent needs, brought to hosts that have Python and no internet, over any launcher."""

from harness.bundle.deploy import deploy_bundle, prune_bundles
from harness.bundle.host_calls import Installed

__all__ = ["Installed", "deploy_bundle", "prune_bundles"]
