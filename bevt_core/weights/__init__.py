"""Weights on disk: our files, other projects' checkpoints, and conversion between them.

Not here: training checkpoints (trainer/engine).
"""
