"""Object stores: their schemes, this process's clients, and requests that are retried.

Not here: paths on them (`storage.objects`).
"""
