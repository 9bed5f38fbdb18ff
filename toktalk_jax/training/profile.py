"""An XProf trace of a few training steps; `python -m tools.read_profile` reads it.

The trace carries the compiled programs, whose operations keep the names of
`jax.named_scope` and of Flax modules. What the loop adds are two host annotations:
`jax.profiler.TraceAnnotation(INPUT)` around waiting for a batch, and
`jax.profiler.StepTraceAnnotation(STEP, step_num=...)` around a step.
"""

import contextlib

import jax

STEP, INPUT = "train", "input"


@contextlib.contextmanager
def trace(directory):
    """Write what runs inside to `directory`, for TensorBoard's or our own reader.

    Steps run asynchronously: block on the state before entering, so that no earlier
    step is in the trace, and before leaving, so that the last one is whole.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every Python call: slow, and larger than the rest
    with jax.profiler.trace(str(directory), profiler_options=options):
        yield


def parse_steps(text):
    """Steps to profile, "10:20" to range(10, 20); "" to an empty range.

    Raises:
      ValueError: anything else.
    """
    first, colon, last = text.partition(":")
    if not text:
        return range(0)
    if not (
        colon and first.isdecimal() and last.isdecimal() and 0 < int(first) < int(last)
    ):
        raise ValueError(
            f"--profile_steps is {text!r}; expected FIRST:LAST such as 10:20, which "
            "profiles steps 10 to 19; the first is 1"
        )
    return range(int(first), int(last))
