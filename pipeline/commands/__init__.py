"""The commands of the offline pipeline: each parses options, loads a recipe and calls one function."""
