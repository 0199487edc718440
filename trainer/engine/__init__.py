"""The training loop: steps, optimizer, schedule, checkpoints. Independent of the stages, which implement `Task`."""
