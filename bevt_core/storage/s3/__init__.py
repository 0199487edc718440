"""Requests to object stores. Not here: paths on them (`storage.objects`)."""
