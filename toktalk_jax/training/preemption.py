"""SIGTERM, as schedulers and clouds send it before they take the machine away.

A run that is asked to stop finishes its step, saves and exits with 0; the same command
goes on. Across hosts JAX's own notifier hears the signal, so that all of them stop
after the same step, whichever was told.
"""

import contextlib
import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

GRACE_S = 20.0  # of the 30 s that a scheduler gives, for the step under way


@contextlib.contextmanager
def notice(grace_s=GRACE_S):
    """Yields `asked(step)`: whether the run is to save after this step and stop.

    A step, or its compilation, that is still under way after `grace_s` is given up: the
    process exits with 0 and its last whole checkpoint stands. To be entered in the main
    thread, after `parallel.join_hosts`.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    heard, answered = threading.Event(), threading.Event()

    def asked(step):
        del step
        if heard.is_set():
            answered.set()
        return heard.is_set()

    # Python runs its handlers between bytecodes, which a compilation holds up for a
    # minute. The descriptor is written at once, and the thread reads it.
    read, write = os.pipe()
    os.set_blocking(write, False)
    old_write = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    old = signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(
        target=_wait, args=(read, heard, answered, grace_s), daemon=True
    ).start()
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(old_write)
        signal.signal(signal.SIGTERM, old)
        os.close(write)  # the thread reads its end and ends


def _wait(read, heard, answered, grace_s):
    while got := os.read(read, 1):
        if got[0] == signal.SIGTERM and not heard.is_set():
            print("SIGTERM: saving after this step", file=sys.stderr, flush=True)
            heard.set()
            if not answered.wait(grace_s):
                print(
                    f"no step ended within {grace_s:.0f} s; the last whole checkpoint "
                    "stands, the same command goes on from it",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(0)
    os.close(read)
