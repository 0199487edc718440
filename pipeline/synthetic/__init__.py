"""Small generated data sets: videos of a virtual camera, and pictures for training a tokenizer."""
