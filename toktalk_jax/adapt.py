r"""Train an adapter: another tokenizer's tokens before a frozen base.

    python -m toktalk_jax.adapt --config configs/adapter.py:tokens=whisper \
        --config.dataset DIR --base runs/grid_lyra --workdir runs/whisper_to_lyra

The dataset is exported with --foreign: both tokenizers' embeddings of the same clips.
The same command again resumes. At the end the workdir holds the bundle and the report
card: card.md, card.json, and the rows of base and adapter as `evaluate` writes them.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from toktalk_jax import adapter_card, command_line, models
from toktalk_jax import motion as mo
from toktalk_jax.baselines import linear_map
from toktalk_jax.data import augment
from toktalk_jax.evaluation import predict
from toktalk_jax.sample import make_sampler
from toktalk_jax.train import (
    check_least,
    check_run,
    define_run_flags,
    make_batches,
    make_optimiser,
)
from toktalk_jax.training import (
    adapter_steps,
    adapters,
    checkpoints,
    logs,
    optim,
    parallel,
    preemption,
    steps,
)
from toktalk_jax.training.checkpointer import Checkpointer
from toktalk_jax.training.loop import loop
from toktalk_jax.training.loss_weights import loss_weights
from toktalk_jax.training.profile import parse_steps


def adapt(config, base, workdir, *, asked=lambda step: False, profile=""):
    """Train an adapter to `config.total_steps`; returns its report card.

    Args:
      config: `configs/adapter.py`; base: run, bundle or shipped name; workdir: kept.
      asked, profile: as in `train.train`.

    Returns:
      The card, on the process that writes; None on the others, and where the run was
      asked to stop before its end.

    Raises:
      ValueError: a config or dataset that cannot train, or one made for another base.
      OSError: the disk is full; the same call resumes.
    """
    workdir = pathlib.Path(workdir)
    with checkpoints.clear_disk_errors(workdir):
        bundle = checkpoints.load(base)
        if (kept := workdir / "config.json").exists():
            old = json.loads(kept.read_text())
            checkpoints.same_config(old, config.to_dict(), workdir)
        if not (workdir / "bundle").is_dir() or _step_of(workdir) < config.total_steps:
            traced = parse_steps(profile), workdir / "profile"
            if not _train(config, bundle, workdir, asked, traced):
                return None
        if not parallel.is_writer():
            return None
        return adapter_card.write(
            config, base, bundle, adapters.load(workdir / "bundle"), workdir
        )


def _step_of(workdir):
    return json.loads((workdir / "bundle/meta.json").read_text())["step"]


def _train(config, bundle, workdir, asked, traced):
    """Whether it came to its last step."""
    data, facts, mean, std = _open(config, bundle)
    state_file = pathlib.Path(config.dataset.split(",")[0]) / "foreign_state.npz"
    kept = state_file if state_file.exists() else None
    if parallel.is_writer():
        adapters.start_workdir(workdir, config.to_dict(), facts, mean, std, kept)
    parallel.wait_for_all("workdir")
    clips = paired(data.clips, mean, std, config.minutes, config.seed)
    if config.train.faces == "base":
        clips = with_sampled_faces(bundle, clips, config.seed)
    networks = models.build(bundle.config["model"], bundle.config["style"])
    network = models.build_adapter(config.adapter.to_dict(), facts["base_dim"])
    params, key = _initial(config, network, clips, len(mean), bundle, mean, std)
    params = {"adapter": params, **jax.tree.map(jnp.asarray, bundle.params)}
    optimiser = optim.freeze(
        make_optimiser(config), params, adapter_steps.LIVE, adapter_steps.FROZEN
    )
    state = parallel.replicate(
        steps.init_state(params, optimiser, adapter_steps.TRAINED)
    )
    checkpointer = Checkpointer(workdir, **config.keep, frozen=("velocity", "style"))
    state, _ = checkpointer.restore(state)
    own, others = (
        adapter_card.size(p) / 1e6 for p in (params["adapter"], bundle.params)
    )
    if parallel.is_writer():
        print(
            f"at step {int(state.step)}: {own:.2f} M parameters before {others:.2f} M "
            f"frozen ones, {len(clips)} clips, {facts['seconds'] / 60:.1f} min of "
            "paired speech",
            flush=True,
        )
    step_fn = parallel.mapped_step(
        functools.partial(
            adapter_steps.train_step,
            models=(*networks, network),
            optimiser=optimiser,
            weights=_weights(bundle, data, config.head),
            options=_options(config, facts["chunk_tokens"]),
        )
    )
    window = config.adapter.context_tokens, facts["chunk_tokens"]
    batches = make_batches(config, clips, int(state.step), adapter_window=window)
    log = logs.opened(workdir, config, int(state.step))
    with contextlib.closing(checkpointer), log as writer:
        if not config.total_steps:  # the closed-form map, or none at all
            checkpointer.save(state, config.seed)
        state, _ = loop(
            *(config, state, step_fn, batches, key, checkpointer, writer),
            **{"asked": asked, "profiled": traced},
        )
    done = int(state.step) == config.total_steps
    if done and parallel.is_writer():
        adapters.export(adapters.of_state(workdir, state), workdir / "bundle")
    return done


def _open(config, bundle):
    """(dataset, facts of the adapter, mean, std of its tokens), all checked.

    Raises:
      ValueError: names the key of config or dataset that does not fit.
    """
    from toktalk_jax.data import pipeline

    check_config(config, bundle)
    kept = ("tokenizer", "tokenizer_hash", "face_model", "face_hash", "head_joint")
    expect = {key: bundle.dataset[key] for key in kept if key in bundle.dataset}
    data = pipeline.load(config.dataset, "train", stats=bundle.stats, expect=expect)
    mean, std = pipeline.foreign_stats(config.dataset)
    split, found = config.report_split, data.metadata["clips"]
    if not found.get(split):
        raise ValueError(
            f"config.report_split is {split!r}, of which the dataset has no clip; it "
            f"holds {found}"
        )
    foreign = data.metadata["foreign"]
    plain = foreign["tokenizer"].partition(":")[0]
    if config.tokens and config.tokens != plain:
        raise ValueError(
            f"the dataset's second tokenizer is {foreign['tokenizer']}, the config "
            f"wants {config.tokens}; export with --foreign {config.tokens}"
        )
    chunk = mo.chunk_frames(bundle.config["sample"]["chunk_seconds"])
    if foreign["lookahead_s"] > chunk / mo.FPS:
        raise ValueError(
            f"{foreign['tokenizer']} looks {foreign['lookahead_s']} s ahead, further "
            f"than a chunk of {chunk / mo.FPS} s: an adapter on it could not stream; "
            "export with --foreign_causal"
        )
    spoken = [c for c in data.clips if augment.source_id(c.clip_id) == c.clip_id]
    seconds = sum(len(clip.motion) for clip in spoken) / mo.FPS
    facts = {
        "base_hash": bundle.meta["hash"],
        "base": {key: data.metadata[key] for key in foreign},
        "base_dim": len(bundle.stats.token_mean),
        "foreign": foreign,
        "chunk_tokens": chunk // mo.FRAMES_PER_TOKEN,
        "seconds": min(seconds, 60 * config.minutes or np.inf),
    }
    return data, facts, mean, std


def check_config(config, bundle):
    """Refuse a config that cannot train before this base, naming the key.

    Raises:
      ValueError: what came, what was expected.
    """
    checkpoints.expect_toktalk(bundle)
    if (objective := bundle.config["train"]["objective"]) != "flow":
        raise ValueError(
            f"the base was trained by train.objective {objective!r}; an adapter is "
            "trained through a velocity field: give a base of 'flow'"
        )
    if not config.dataset:
        raise ValueError(
            "config.dataset is empty; give --config.dataset DIR, a directory made by "
            "python -m tools.export_tokens --foreign NAME"
        )
    if config.train.faces not in ("data", "base"):
        raise ValueError(
            f"config.train.faces is {config.train.faces!r}; expected 'data' or 'base'"
        )
    if config.adapter.kind not in ("transformer", "linear"):
        raise ValueError(
            f"config.adapter.kind is {config.adapter.kind!r}; expected 'transformer' "
            "or 'linear'"
        )
    if config.adapter.kind == "linear" and config.total_steps:
        raise ValueError(
            "config.adapter.kind 'linear' is solved in closed form: it takes "
            f"total_steps 0, not {config.total_steps}"
        )
    _check_sizes(config)
    weights = [config.train[name] for name in ("flow", "align", "distill")]
    if min(weights) < 0 or not sum(weights):
        raise ValueError(
            f"config.train.flow, align, distill are {weights}; expected none below 0 "
            "and one above"
        )
    chunk = mo.chunk_frames(bundle.config["sample"]["chunk_seconds"])
    for frames in config.train.window_frames:
        if frames % chunk:
            raise ValueError(
                f"config.train.window_frames holds {frames}; expected multiples of the "
                f"base's chunk of {chunk} frames"
            )
    check_run(config)
    parallel.check_batch(config.batch_size)


def _check_sizes(config):
    a = config.adapter
    check_least(
        ("adapter.width", a.width, 4),
        ("adapter.depth", a.depth, 1),
        ("adapter.heads", a.heads, 1),
        ("adapter.feed_forward", a.feed_forward, 1),
        ("adapter.context_tokens", a.context_tokens, 0),
        ("minutes", config.minutes, 0),
        ("report_clips", config.report_clips, 0),
    )
    if a.width % 2 or a.width % a.heads:
        raise ValueError(
            f"config.adapter.width is {a.width}; expected an even multiple of "
            f"config.adapter.heads, {a.heads}"
        )


def paired(clips, mean, std, minutes, seed):
    """The clips to train on, foreign tokens standardised.

    Args:
      minutes: of a seeded shuffle the first clips that add up to so much; 0: all.
    """
    order = np.random.default_rng(seed).permutation(len(clips)) if minutes else None
    chosen, seconds = [], 0.0
    for k in range(len(clips)) if order is None else order:
        if minutes and seconds >= 60 * minutes:
            break
        chosen.append(adapters.standardised(clips[k], mean, std))
        seconds += len(clips[k].motion) / mo.FPS
    return chosen


def with_sampled_faces(bundle, clips, seed):
    """Clips whose motion is a sample of the base from its own tokens, without style.

    So an adapter can be trained on sound alone: no tracked face is looked at.
    """
    styles = np.zeros((len(clips), bundle.config["style"]["width"]), np.float32)
    drawn = predict.streamed(
        *(make_sampler(bundle), clips, styles), seed=seed, progress="the base's faces"
    )
    stats = bundle.stats
    return [
        dataclasses.replace(
            clip, motion=(stats.normalise(motion) * stats.live).astype(np.float32)
        )
        for clip, motion in zip(clips, drawn, strict=True)
    ]


def _initial(config, network, clips, width, bundle, mean, std):
    """(adapter params at step 0, root key)."""
    key = jax.random.key(config.seed)
    if config.adapter.kind != "linear":
        return jax.jit(network.init)(key, jnp.zeros((1, 8, width)))["params"], key
    from toktalk_jax.data import pipeline

    held = pipeline.load(config.dataset, "validation", stats=bundle.stats).clips
    held = [adapters.standardised(clip, mean, std) for clip in held]
    return linear_map.fit(clips, held), key


def _weights(bundle, data, head):
    """[F] loss weights, as the base's own training had them."""
    from ml_collections import ConfigDict

    surface = bundle.config["train"].get("surface_weight", 0.0)
    config = ConfigDict({"head": head, "train": {"surface_weight": surface}})
    return loss_weights(config, data)


def _options(config, chunk_tokens):
    t = config.train
    return adapter_steps.Options(
        batch_size=config.batch_size,
        flow=t.flow,
        align=t.align,
        distill=t.distill,
        chunk_tokens=chunk_tokens,
        context_tokens=config.adapter.context_tokens,
        ema_decay=t.ema_decay,
    )


def main(argv):
    """Command line."""
    logging.set_verbosity(logging.ERROR)  # Orbax tells its whole life below
    f = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if not f.workdir:
        raise app.UsageError("give --workdir DIR, where the run is kept")
    with command_line.one_line_errors("adapt"):
        parallel.join_hosts(f.multihost)
        with preemption.notice() as asked:
            options = {"asked": asked, "profile": f.profile_steps}
            card = adapt(f.config, f.base, f.workdir, **options)
        if card:
            print(adapter_card.text(card))


if __name__ == "__main__":
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "config file", lock_config=True)
    flags.DEFINE_string("base", "small", "frozen base: run, bundle or shipped name")
    define_run_flags()
    flags.mark_flag_as_required("config")
    command_line.run(main)
