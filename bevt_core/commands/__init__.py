"""Commands of `bevt` about models and tokenizers by themselves: options and the call of one function each."""
