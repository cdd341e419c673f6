"""What runs on a prefill, decode or storage host: the agent, its buffers, storage, transport, compute."""
