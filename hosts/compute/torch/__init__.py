"""Compute by torch, on GPUs or, for tests, on the CPU. Imported only for who asks for it."""
