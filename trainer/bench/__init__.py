"""Benchmarks of training: one step on a device, and loading clips."""
