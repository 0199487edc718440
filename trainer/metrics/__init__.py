"""The log of a run and its measurements: metrics, throughput, data wait."""
