"""Benchmarks of single parts: transports, stores, traffic classes; each beside the tool that evaluators
know."""
