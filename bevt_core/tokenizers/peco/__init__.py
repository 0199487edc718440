"""PeCo, a VQ-VAE with a perceptual loss: networks, losses, training, and the tokenizer made of them."""
