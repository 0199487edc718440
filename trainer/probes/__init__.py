"""Probes of frozen features: k-nearest neighbours, linear and attentive."""
