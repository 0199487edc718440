"""Contracts between programs and between versions: records, view geometry, recipes. Imports no torch."""
