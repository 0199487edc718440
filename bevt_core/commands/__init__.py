"""The commands of `bevt` for models and tokenizers: each declares its options and calls one function."""
