"""A function that hangs, dies or raises, as it is told; light to import, for children are started often."""

import os
import signal
import time

from bevt_core.untrusted.isolation import ask


def misbehave(how: str) -> str:
    """Runs in the child."""
    if how == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(60)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "exit":
        os._exit(3)
    if how == "raise":
        raise KeyError("not here")
    if how == "print":
        print("noise on stdout")
        os.write(1, b"more noise\n")
    if how == "memory":
        return str(len(bytearray(1 << 30)))
    if how == "keep memory":
        kept = b"x" * (1 << 30)  # resident, since it is written to
        time.sleep(60)
        return str(len(kept))
    if how == "ask":
        return f"well: {ask(1) + ask(2)}"
    return "x" * 3_000_000 if how == "much" else f"well: {how}"
