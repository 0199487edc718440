"""Open-MAGVIT2: a convolutional tokenizer without a codebook; the signs of a vector's values are the bits of its id."""
