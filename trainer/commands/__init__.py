"""The commands that train, test and inspect runs: each parses options, loads a recipe and calls one function."""
