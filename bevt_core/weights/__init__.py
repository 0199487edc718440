"""Weights on disk: our files, other projects' checkpoints, and surgery between them.

Not here: training checkpoints (trainer/engine).
"""
