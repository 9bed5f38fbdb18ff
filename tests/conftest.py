"""Strict JAX settings, two CPU devices, shared tiny models, markers."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the slow tests")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: slow; runs only with --long")
    config.addinivalue_line("markers", "shared: needs the ../shared data folder")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --long"))


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the checkout; the test skips without it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return path
