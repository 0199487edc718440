"""What the training of tokenizers has of its own: crops, tasks, reconstructions."""
