"""Tokenizer training: crops, tasks, reconstructions and the stage. The networks are in bevt_core.tokenizers."""
