"""Formats shared by programs and versions: records, tables, view geometry, recipes. Imports no torch."""
