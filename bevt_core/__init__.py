"""The method, and the code that both sides share: masks, encoders, decoders, tokenizers, shards, views."""
