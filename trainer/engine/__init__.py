"""The training loop: steps, optimizer, schedule, checkpoints. Knows a task only by its interface."""
