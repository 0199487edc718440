"""Processes and devices: ranks, sharding, launching, signals, watchdog. Independent of the stages of training."""
