"""Looking at raw data and at datasets: scan, one sample, contact sheets, the report. Changes nothing."""
