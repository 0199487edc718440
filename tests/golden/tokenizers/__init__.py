"""Golden numbers of the published tokenizers' original code, and the script that makes them."""
