"""Checkpoints: Orbax for a run in progress, one small folder for a model to use.

A workdir holds `config.json`, `stats.json`, `tokenizer_state.npz` (where the tokenizer
has one), `dataset.json` and Orbax steps under `checkpoints/`, see `checkpointer`. A
bundle folder, as shipped, holds the same JSON files and `params.npz` (the EMA weights)
instead.
"""

import contextlib
import errno
import hashlib
import json
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from toktalk_jax import motion as mo
from toktalk_jax.training import logs

SHIPPED = pathlib.Path(__file__).resolve().parent.parent / "checkpoints"


class Bundle(NamedTuple):
    """A model to use.

    Attributes:
      config: dict of the run that made it; params: the method's, EMA weights
        ({"velocity", "style"} of TokTalk).
      stats: `motion.Stats`; tokenizer_state: path of the tokenizer's file, or None.
      dataset: metadata of the training data, with its speakers; meta: step, weights'
        name and hash.
    """

    config: dict
    params: dict
    stats: mo.Stats
    tokenizer_state: pathlib.Path | None
    dataset: dict
    meta: dict


def start_workdir(workdir, config, stats, dataset, tokenizer_state):
    """Write what a model needs beside its weights; called once per run.

    Raises:
      ValueError: the workdir holds a run with another config, or on other data.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    config_file = workdir / "config.json"
    text = json.dumps(config, indent=1, sort_keys=True)
    if config_file.exists():
        same_config(json.loads(config_file.read_text()), config, workdir)
        _same_data(workdir, stats, dataset)
    logs.write_whole(workdir / "stats.json", stats.to_json())
    logs.write_whole(workdir / "dataset.json", json.dumps(dataset, indent=1))
    if tokenizer_state is not None:
        shutil.copyfile(tokenizer_state, workdir / "tokenizer_state.npz")
    logs.write_whole(config_file, text)


@contextlib.contextmanager
def clear_disk_errors(workdir):
    """Say what to do about a full disk, whichever library met it.

    Raises:
      OSError: errno ENOSPC, in place of any error that tells of a full disk.
    """
    try:
        yield
    except Exception as error:
        # Orbax saves by TensorStore, which reports it as a ValueError.
        full = "No space left on device" in str(error)
        if not full and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            "the disk is full; free some space and run the same training again, it "
            "goes on from its last whole checkpoint",
            str(workdir),
        ) from error


# Where files lie, what a run prints and keeps: nothing that its numbers come from.
FREE = ("dataset", "head", "log_every", "save_every", "stop_after_skips", "wandb")
FREE += ("report_split", "report_clips", "keep.", "validation.")
# Keys younger than some runs, with the value that a run without them had.
YOUNGER = {
    "method": "toktalk",
    "model.stacked": True,
    "train.dtype": "float32",
    "train.accumulation": 1,
}


def computing(config):
    """{flat key: value} of what a run's numbers come from, without young defaults."""
    flat = traverse_util.flatten_dict(json.loads(json.dumps(config)), sep=".")
    return {
        key: value
        for key, value in flat.items()
        if not any(key == f or f[-1] == "." and key.startswith(f) for f in FREE)
        and (key not in YOUNGER or value != YOUNGER[key])
    }


def same_config(old, new, workdir):
    """Raise ValueError naming what of a run's config would compute something else."""
    old, new = computing(old), computing(new)
    changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if new.get("train.decay") != "cosine" and "total_steps" in changed:
        changed.remove("total_steps")  # no rate depends on the last step
    if changed:
        was = lambda config, k: config.get(k, YOUNGER.get(k))  # noqa: E731
        raise ValueError(
            f"{workdir} holds a run with another config: "
            + ", ".join(
                f"{k} was {was(old, k)!r}, now {was(new, k)!r}" for k in changed
            )
            + "; choose another --workdir or the old values"
        )


def _same_data(workdir, stats, dataset):
    old = mo.Stats.from_json((workdir / "stats.json").read_text()).hash()
    if old != stats.hash():
        raise ValueError(
            f"{workdir} holds a run on data with statistics {old}, but the dataset's "
            f"are {stats.hash()}: weights belong to their statistics; choose another "
            "--workdir or the old dataset"
        )
    facts = json.loads((workdir / "dataset.json").read_text())
    for key in ("tokenizer", "tokenizer_hash", "face_model", "face_hash"):
        if facts.get(key) != dataset.get(key):
            raise ValueError(
                f"{workdir} holds a run on data with {key} {facts.get(key)!r}, but the "
                f"dataset has {dataset.get(key)!r}; choose another --workdir or the "
                "old dataset"
            )


def load(path):
    """Load a shipped name (under `toktalk_jax/checkpoints`), a bundle or a workdir.

    Raises:
      FileNotFoundError: nothing there that can be loaded; says what was looked for.
    """
    folder = pathlib.Path(path)
    found = (folder / "config.json").is_file()
    if not found and (SHIPPED / str(path)).is_dir():
        folder = SHIPPED / str(path)
    if not (folder / "dataset.json").is_file():
        names = sorted(p.parent.name for p in SHIPPED.glob("*/dataset.json"))
        raise FileNotFoundError(
            f"no checkpoint at {str(path)!r} (looked for dataset.json); give the "
            f"--workdir of a run, a bundle folder, or a shipped name: {names}"
        )
    config = _read_config(folder / "config.json")
    return _with_files(folder, config, *read_params(folder))


def _with_files(folder, config, params, meta):
    dataset = json.loads((folder / "dataset.json").read_text())
    stats = mo.Stats.from_json((folder / "stats.json").read_text())
    state = folder / "tokenizer_state.npz"
    meta = {**meta, "weights": "ema", "hash": params_hash(params)}
    return Bundle(
        config, params, stats, state if state.is_file() else None, dataset, meta
    )


def _read_config(path):
    # A run from before there was another method to choose is TokTalk's.
    return {"method": YOUNGER["method"]} | json.loads(path.read_text())


def expect_toktalk(bundle):
    """Refuse a baseline's weights where an ODE is to be solved.

    Raises:
      ValueError: names the method that it is of.
    """
    if (method := bundle.config["method"]) != "toktalk":
        raise ValueError(
            f"the checkpoint is of {method}, a baseline: it is neither sampled nor "
            f"adapted; score it with python -m toktalk_jax.evaluate --rows {method}"
        )


def of_state(workdir, state):
    """`Bundle` of a run's workdir with the EMA weights of a TrainState in memory."""
    folder = pathlib.Path(workdir)
    config = _read_config(folder / "config.json")
    params = jax.tree.map(np.asarray, state.ema)
    meta = {"step": int(state.step), "seed": config["seed"]}
    return _with_files(folder, config, params, meta)


def read_params(folder):
    """(params, meta) of a bundle folder, or of a workdir's newest step."""
    if (folder / "params.npz").is_file():
        with np.load(folder / "params.npz") as file:
            params = traverse_util.unflatten_dict({**file}, sep="/")
        return params, json.loads((folder / "meta.json").read_text())
    return _load_ema(folder)


def _load_ema(folder):
    manager = ocp.CheckpointManager((folder / "checkpoints").resolve())
    step = manager.latest_step()
    if step is None:
        raise FileNotFoundError(
            f"{folder} holds a run but no complete checkpoint yet; let it train until "
            "its first save"
        )
    # Without a target Orbax insists on the devices that saved it.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        dict(_saved_shapes(folder, step)),
    )
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            ema=ocp.args.StandardRestore(target),
            step=ocp.args.JsonRestore(),
            seed=ocp.args.JsonRestore(),
        ),
    )
    manager.close()
    params = jax.tree.map(np.asarray, restored["ema"])
    return params, {"step": restored["step"], "seed": restored["seed"]}


def _saved_shapes(folder, step):
    item = (folder / "checkpoints" / str(step) / "ema").resolve()
    with ocp.StandardCheckpointer() as reader:
        return reader.metadata(item).item_metadata.tree


def export(bundle, folder):
    """Write a bundle folder: what ships, and what other machines need.

    Written beside and renamed, so that a folder is whole or absent.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=".export-"))
    flat = traverse_util.flatten_dict(bundle.params, sep="/")
    np.savez(temporary / "params.npz", **{k: np.asarray(v) for k, v in flat.items()})
    for name, value in (
        ("config", bundle.config),
        ("dataset", bundle.dataset),
        ("meta", bundle.meta),
    ):
        text = json.dumps(value, indent=1, sort_keys=True)
        (temporary / f"{name}.json").write_text(text + "\n")
    (temporary / "stats.json").write_text(bundle.stats.to_json() + "\n")
    if bundle.tokenizer_state:
        shutil.copyfile(bundle.tokenizer_state, temporary / "tokenizer_state.npz")
    temporary.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def params_hash(params):
    """12 hex digits over all parameter names and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:12]
