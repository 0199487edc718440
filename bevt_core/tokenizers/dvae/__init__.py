"""The discrete VAE of DALL-E: networks, losses, training, and the tokenizer made of them."""
