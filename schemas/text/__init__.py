"""Text from outside, read within bounds: JSON, YAML, plain text, names and credentials. No records."""
