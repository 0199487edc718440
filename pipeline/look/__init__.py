"""Read-only views of raw data and datasets: scan, one sample, contact sheets, the report."""
