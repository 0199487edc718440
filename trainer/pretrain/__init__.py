"""Pretraining: its streams, task, plan, pictures and probes. Sessions and run directories are in setup and runs."""
