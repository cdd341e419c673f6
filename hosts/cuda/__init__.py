"""GPUs by the CUDA driver's own library: memory, streams and copies, with no CUDA toolkit and no torch."""
