"""Adapter checkpoints: the adapter alone, and which base and tokenizers it is between.

A workdir holds `config.json`, `adapter.json` (the facts), `foreign_stats.json`,
`tokenizer_state.npz` (where the foreign tokenizer has one) and Orbax steps; a bundle
folder, as shipped, `params.npz` (the EMA weights) and `meta.json` instead of those.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util

from toktalk_jax import models
from toktalk_jax.streaming import AdapterSpec
from toktalk_jax.training import checkpoints, logs


class AdapterBundle(NamedTuple):
    """An adapter to use.

    Attributes:
      config: dict of the run that made it; params: {"adapter"}, EMA weights.
      mean, std: [A'] of the foreign tokens at 12.5 Hz.
      facts: base_hash; base and foreign, each tokenizer, tokenizer_hash, rate_hz, dim
        and lookahead_s; base_dim; chunk_tokens; seconds of paired speech.
      tokenizer_state: path of the foreign tokenizer's file, or None.
      meta: step, hash of the weights.
    """

    config: dict
    params: dict
    mean: np.ndarray
    std: np.ndarray
    facts: dict
    tokenizer_state: pathlib.Path | None
    meta: dict


def start_workdir(workdir, config, facts, mean, std, tokenizer_state):
    """Write what an adapter needs beside its weights; called once per run.

    Raises:
      ValueError: the workdir holds another config, base or tokenizer, or an adapter on
        other data: weights belong to the statistics of their tokens.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    kept = workdir / "config.json"
    if kept.exists():
        checkpoints.same_config(json.loads(kept.read_text()), config, workdir)
        before = json.loads((workdir / "adapter.json").read_text())
        for key in ("base_hash", "base", "foreign"):
            if before[key] != json.loads(json.dumps(facts[key])):
                raise ValueError(
                    f"{workdir} holds an adapter with {key} {before[key]!r}, now "
                    f"{facts[key]!r}; choose another --workdir"
                )
    stats = json.dumps({"mean": mean.tolist(), "std": std.tolist()})
    held = workdir / "foreign_stats.json"
    if kept.exists() and held.read_text() != stats:
        raise ValueError(
            f"{workdir} holds an adapter on data whose second tokens have another mean "
            f"or standard deviation than those of {config['dataset']!r}; choose "
            "another --workdir or the old dataset"
        )
    logs.write_whole(held, stats)
    logs.write_whole(workdir / "adapter.json", json.dumps(facts, indent=1))
    if tokenizer_state is not None:
        shutil.copyfile(tokenizer_state, workdir / "tokenizer_state.npz")
    logs.write_whole(kept, json.dumps(config, indent=1, sort_keys=True))


def load(path):
    """`AdapterBundle` of a shipped name, a bundle or a workdir.

    Raises:
      FileNotFoundError: no adapter there; says what was looked for.
    """
    folder = pathlib.Path(path)
    if not (folder / "adapter.json").is_file():
        folder = checkpoints.SHIPPED / str(path)
    if not (folder / "adapter.json").is_file():
        names = sorted(
            p.parent.name for p in checkpoints.SHIPPED.glob("*/adapter.json")
        )
        raise FileNotFoundError(
            f"no adapter at {str(path)!r} (looked for adapter.json); give the "
            f"--workdir of an adapter's run, its bundle, or a shipped name: {names}"
        )
    return _with_files(folder, *checkpoints.read_params(folder))


def of_state(workdir, state):
    """`AdapterBundle` of a workdir with the EMA weights of a TrainState in memory."""
    params = jax.tree.map(np.asarray, state.ema)
    folder = pathlib.Path(workdir)
    meta = {
        "step": int(state.step),
        "seed": json.loads((folder / "config.json").read_text())["seed"],
    }
    return _with_files(folder, params, meta)


def _with_files(folder, params, meta):
    config, facts, stats = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("config", "adapter", "foreign_stats")
    )
    state = folder / "tokenizer_state.npz"
    return AdapterBundle(
        config,
        params,
        np.asarray(stats["mean"], np.float32),
        np.asarray(stats["std"], np.float32),
        facts,
        state if state.is_file() else None,
        {**meta, "weights": "ema", "hash": checkpoints.params_hash(params)},
    )


def export(adapter, folder):
    """Write a bundle folder, beside and renamed: whole or absent."""
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=".export-"))
    flat = traverse_util.flatten_dict(adapter.params, sep="/")
    np.savez(temporary / "params.npz", **{k: np.asarray(v) for k, v in flat.items()})
    stats = {"mean": adapter.mean.tolist(), "std": adapter.std.tolist()}
    for name, value in (
        ("config", adapter.config),
        ("adapter", adapter.facts),
        ("foreign_stats", stats),
        ("meta", adapter.meta),
    ):
        text = json.dumps(value, indent=1, sort_keys=True)
        (temporary / f"{name}.json").write_text(text + "\n")
    if adapter.tokenizer_state:
        shutil.copyfile(adapter.tokenizer_state, temporary / "tokenizer_state.npz")
    temporary.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def spec(adapter, base):
    """`streaming.AdapterSpec` of an adapter before a base `checkpoints.Bundle`.

    Raises:
      ValueError: it was trained for another base; names both hashes.
    """
    wanted, found = adapter.facts["base_hash"], base.meta["hash"]
    if wanted != found:
        raise ValueError(
            f"this adapter was trained for a base with weights {wanted}, but the base "
            f"has {found}; name its own base, or train an adapter for this one with "
            "python -m toktalk_jax.adapt"
        )
    network = models.build_adapter(adapter.config["adapter"], adapter.facts["base_dim"])
    return AdapterSpec(
        network,
        adapter.params["adapter"],
        adapter.mean,
        adapter.std,
        adapter.config["adapter"]["context_tokens"],
        adapter.facts["chunk_tokens"],
    )


def standardised(clip, mean, std):
    """A clip whose foreign tokens have mean 0 and std 1 per dimension.

    Raises:
      ValueError: they do not cover the clip, or are not finite.
    """
    if len(clip.foreign) < len(clip.tokens) - 1:
        raise ValueError(
            f"{clip.clip_id} has {len(clip.foreign)} foreign tokens for "
            f"{len(clip.tokens)} of the base at 12.5 Hz: they do not cover it"
        )
    if not np.isfinite(clip.foreign).all():
        raise ValueError(f"{clip.clip_id} holds foreign tokens that are NaN or Inf")
    foreign = (clip.foreign - mean) / np.where(std > 1e-8, std, 1.0)
    return dataclasses.replace(clip, foreign=foreign.astype(np.float32))
