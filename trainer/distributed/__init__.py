"""Processes and devices: ranks, sharding, launching, signals, watchdog. Knows nothing of models' tasks."""
