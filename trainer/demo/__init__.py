"""`bevt demo`: the whole chain on videos that it makes itself, and the page it writes."""
