"""What a number was measured on, by name."""

import os
import pathlib
import platform
import re


def device():
    """What computes: the accelerator, or the processor and how many of its cores."""
    import jax

    found = jax.local_devices()[0]
    if found.platform != "cpu":
        return f"{found}, {found.device_kind}"
    return f"{found}, {os.cpu_count()} cores of {processor()}"


def processor():
    """The processor's name, as its maker calls it where the system tells."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
