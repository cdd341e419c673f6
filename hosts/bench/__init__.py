"""Raw rates of a transport or a store, as a host sees them: nothing of turns, policies or scale models."""
