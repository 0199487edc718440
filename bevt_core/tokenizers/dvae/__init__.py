"""The discrete VAE, in two forms of networks (DALL-E's, and `patches`): losses, training, and its tokenizers."""
