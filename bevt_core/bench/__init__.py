"""Benchmarks of models and kernels on this machine.

Not here: whole training steps (trainer/bench) and jobs (pipeline/bench).
"""
