"""What frozen features know: kNN, linear and attentive probes."""
