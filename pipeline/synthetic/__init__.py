"""Small data made on the spot: videos of a virtual camera, pictures for training a tokenizer."""
