"""Benchmarks and evaluations, each one command; docs/benchmarks.md lists them with their figures."""
