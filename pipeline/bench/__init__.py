"""Benchmarks of the job and its dataset: the engine's overhead, bytes per frame."""
