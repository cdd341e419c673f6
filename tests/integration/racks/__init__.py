"""Racks to test against: hosts that are network namespaces, and in each what starts agents there."""
