"""`bevt doctor`: what this machine has, how fast it is, and what to change. Not here: benchmarks of the product."""
