"""`bevt demo`: all commands on generated videos, and the report of the results."""
