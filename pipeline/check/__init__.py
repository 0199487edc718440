"""`bevt verify` and `bevt repair`: check a dataset, and rebuild its damaged parts."""
