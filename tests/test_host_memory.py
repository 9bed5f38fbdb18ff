"""Freed memory stays with the process, and the entry points ask for that."""

import importlib.util
import pathlib
import platform
import subprocess
import sys

import pytest

from toktalk_jax import command_line, host_memory

# Pages that the kernel hands out for twenty times the same 64 MB, on two threads.
FAULTS = """
import ctypes, resource, sys, threading
from toktalk_jax import host_memory

if sys.argv[1] == "keep":
    host_memory.keep_freed()
libc, size = ctypes.CDLL(None), ctypes.c_size_t(64 << 20)
libc.malloc.restype = ctypes.c_void_p

def work():
    for _ in range(20):
        block = ctypes.c_void_p(libc.malloc(size))
        libc.memset(block, 1, size)
        libc.free(block)

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=work)
work(), thread.start(), thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_pages_are_cleared_once():
    found = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))
        for how in ("keep", "not")
    }
    assert found["keep"] < 2000 < 100_000 < found["not"], found


def test_another_c_library_is_left_alone(monkeypatch):
    def none(name):
        raise OSError("no such library")

    monkeypatch.setattr(host_memory.ctypes, "CDLL", none)
    host_memory.keep_freed()
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    host_memory.keep_freed()


@pytest.mark.parametrize("program", ["train", "adapt", "evaluate", "sample"])
def test_the_entry_points_ask(program, monkeypatch):
    source = importlib.util.find_spec(f"toktalk_jax.{program}").origin
    assert "command_line.run(main)" in pathlib.Path(source).read_text()
    asked = []
    monkeypatch.setattr(host_memory, "keep_freed", lambda: asked.append(True))
    monkeypatch.setattr(command_line.app, "run", lambda *a, **k: None)
    command_line.run(None)
    assert asked == [True]
