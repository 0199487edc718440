"""The log of a run and what it measures: metrics, throughput, waiting for data."""
