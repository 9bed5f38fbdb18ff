"""Strict JAX settings, two CPU devices, shared tiny models, markers."""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile far longer than they compute: unoptimised code halves their time. In the
# environment, so that the commands that tests run have it too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import pytest

from toktalk_jax import host_memory

ROOT = pathlib.Path(__file__).resolve().parent.parent

host_memory.keep_freed()
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


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


@pytest.fixture(scope="module", autouse=True)
def let_programs_go():
    """After a module, drop compiled programs once they are many.

    XLA on a CPU gives every kernel three memory maps; Linux allows a process 65,530, a
    long run of tests reaches them, and the worker that does dies.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the checkout; the test skips without it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A real dataset directory of a few seconds: tones whose loudness opens the jaw."""
    import numpy as np

    from toktalk_jax.data import builder
    from toktalk_jax.data.schema import RawClip
    from toktalk_jax.tokenizers import mel_rvq

    def clip(i, split):
        rng = np.random.default_rng(i)
        time = np.arange(16_000 * 2 + 640 * (i % 3)) / 16_000
        loud = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 3) * time)
        wave = 0.4 * loud * np.sin(2 * np.pi * rng.uniform(150, 300) * time)
        frames = len(wave) // 640
        motion = rng.normal(size=(frames, 56)).cumsum(0) * 0.01
        motion[:, 48:50] = 0
        motion[:, 50] = 0.2 * loud[::640][:frames]
        return RawClip(
            f"clip-{i}",
            f"speaker-{i % 2}",
            "tiny",
            split,
            wave.astype("f4"),
            motion.astype("f4"),
        )

    splits = ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    clips = [clip(i, split) for i, split in enumerate(splits)]
    tokenizer = mel_rvq.fit(
        [c.audio for c in clips[:6]], books=2, size=16, min_tokens=1
    )
    path = tmp_path_factory.mktemp("tiny") / "dataset"
    path.mkdir()
    tokenizer.save(path / "tokenizer_state.npz")
    facts = {"corpus": "tiny", "head_joint": "neck", "face_model": "stand_in"}
    shards = {"train": 2, "validation": 1, "test": 1}
    read = lambda on_skip, each: each(clips)  # noqa: E731
    builder.export(read, path, tokenizer, about=facts, shards=shards)
    return path


@pytest.fixture(scope="session")
def live_engine(tiny_run):
    """The engine of a live server on `tiny_run`, compiled; nothing changes it."""
    from toktalk_jax.live.engine import Engine

    sizes = {"chunks": [0.4, 0.24], "steps": [2, 3], "max_sessions": 2}
    engine = Engine(str(tiny_run), **sizes)
    for _ in engine.prepare():
        pass
    return engine


@pytest.fixture(scope="session")
def speaking_engine(tiny_run, tmp_path_factory):
    """The engine of a live server that says text, of one size, compiled.

    Before `tiny_run` stands a random linear map from the synthesizer's states.
    """
    pytest.importorskip("hibari")
    from toktalk_jax.live.engine import Engine

    adapter = random_adapter(tiny_run, tmp_path_factory.mktemp("adapter") / "hibari")
    sizes = {"chunks": [0.4], "steps": [2], "max_sessions": 1}
    engine = Engine(str(tiny_run), str(adapter), **sizes)
    for _ in engine.prepare():
        pass
    return engine


def random_adapter(base, path):
    import numpy as np

    from toktalk_jax import models
    from toktalk_jax.tokenizers.hibari import DIM, Hibari
    from toktalk_jax.training import adapters, checkpoints

    bundle, config = checkpoints.load(base), {"kind": "linear", "context_tokens": 10}
    width = len(bundle.stats.token_mean)
    network = models.build_adapter(config, width)
    tokens = np.zeros((1, 5, DIM), np.float32)
    params = network.init(jax.random.key(0), tokens)["params"]
    facts = {"tokenizer": "hibari", "tokenizer_hash": Hibari().hash, "dim": DIM}
    facts = {
        "base_hash": bundle.meta["hash"],
        "foreign": facts | {"rate_hz": 80.0, "lookahead_s": 0.0},
        "base_dim": width,
        "chunk_tokens": 5,
    }
    mean, std = np.zeros(DIM, np.float32), np.ones(DIM, np.float32)
    bundle = adapters.AdapterBundle(
        {"adapter": config}, {"adapter": params}, mean, std, facts, None, {"step": 0}
    )
    adapters.export(bundle, path)
    return path


@pytest.fixture(scope="module")
def live(live_engine):
    """A live server with its usual limits, four sessions at once.

    Of a module: its start compiles again what `let_programs_go` dropped.
    """
    from tests.live_servers import serving

    with serving(live_engine) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_run(tiny_dataset, tmp_path_factory):
    """The workdir of a smoke training on `tiny_dataset`."""
    from configs import small
    from toktalk_jax import train

    config = small.get_config("smoke")
    config.dataset = str(tiny_dataset)
    workdir = tmp_path_factory.mktemp("run")
    train.train(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def styled(tiny_dataset, tiny_run):
    """Prepares `tiny_run` for scoring, one sample a clip; options of `task.prepare`."""
    from configs import small
    from toktalk_jax import task

    config = small.get_config("smoke")
    config.dataset = str(tiny_dataset)
    return lambda **options: task.prepare(config, tiny_run, samples=1, **options)
