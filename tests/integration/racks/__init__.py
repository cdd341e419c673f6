"""Racks to test against: hosts that are network namespaces, with the real thing in them that starts agents."""
