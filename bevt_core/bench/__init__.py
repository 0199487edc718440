"""What models and kernels cost on this machine.

Not here: whole training steps (trainer/bench) and jobs (pipeline/bench).
"""
