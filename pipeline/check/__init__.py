"""`bevt verify` and `bevt repair`: is a dataset what it says it is, and making the broken parts again."""
