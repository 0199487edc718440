"""Published tokenizers: downloading their weights and converting them to our files."""
