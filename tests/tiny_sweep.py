"""What the tests of sweeps and launchers share: quick cells, a file with a sweep."""

import time

from launch import sweep_cells
from tests.conftest import ROOT

# Of real trainings: compiled once for all tests.
TRAINING_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def write_sweep(path, body):
    """Write a config file with a generator `sweep_it`; returns the sweep's name."""
    path.write_text(
        f"from configs.small import get_config\n\n\ndef sweep_it():\n    {body}\n"
    )
    return f"{path}:smoke:sweep_it"


def quick_cell(out, name, steps=3, pause=0.01, fail=""):
    """A cell of `tests.quick_trainer`."""
    command = ("tests.quick_trainer", f"--workdir={out / name}", f"--steps={steps}")
    command += (f"--pause={pause}", f"--fail={fail}")
    return sweep_cells.Cell(name, {}, {}, command, out / name, {"total_steps": steps})


def until(condition, seconds=60):
    """Wait for something that must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
