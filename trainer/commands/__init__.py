"""The commands of training, testing and looking at runs: parse, load a recipe, call one function."""
