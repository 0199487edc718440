"""VQGAN and the tokenizers that kept its two networks: LlamaGen's, with unit-length codes, and IBQ."""
