"""Train the method that a config names: TokTalk, or a baseline that learns.

    python -m toktalk_jax.train --config configs/small.py \
        --config.dataset DIR --workdir runs/small

Order of initialisation: 1. the newest checkpoint in the workdir, 2. scratch. The same
command again resumes, bitwise equal to a run that was never interrupted.
"""

import contextlib
import functools
import itertools
import json
import pathlib

import jax
from absl import app, flags, logging

from toktalk_jax import command_line, step_cost, validation
from toktalk_jax import motion as mo
from toktalk_jax.data import windows
from toktalk_jax.methods import METHODS
from toktalk_jax.training import (
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


def train(config, workdir, *, asked=lambda step: False, profile="", one_batch=False):
    """Train to `config.total_steps` and return the final metrics.

    Writes checkpoints, `metrics.jsonl`, TensorBoard events and the final bundle
    `<workdir>/bundle`; `<workdir>/best`, where checkpoints are kept by a metric.

    Args:
      asked: step -> whether to save after it and stop, see `training.preemption`.
      profile: "10:20" writes an XProf trace of steps 10 to 19, counted from where this
        process starts, to `<workdir>/profile`.
      one_batch: train on the first batch alone, to see it learnt by heart.

    Raises:
      ValueError: a config that cannot train, or a dataset made for something else.
      OSError: the disk is full; the same call resumes.
      FloatingPointError: nothing but NaN or Inf for `config.stop_after_skips` steps.
    """
    workdir = pathlib.Path(workdir)
    with checkpoints.clear_disk_errors(workdir):
        traced = parse_steps(profile), workdir / "profile"
        return _train(config, workdir, asked, traced, one_batch)


def _train(config, workdir, asked, traced, one_batch):
    from toktalk_jax.data import pipeline

    check_config(config)
    data = pipeline.load(config.dataset, "train", tokenizer=config.tokenizer)
    speakers = windows.speakers(data.clips)
    data = data._replace(metadata=data.metadata | {"speakers": speakers})
    start_workdir(config, workdir, data, one_batch)
    key, weights = jax.random.key(config.seed), loss_weights(config, data)
    params, loss_sums = METHODS[config.method].build(
        config.to_dict(), key, data.stats, speakers, weights
    )
    optimiser = make_optimiser(config)
    state = parallel.replicate(steps.init_state(params, optimiser))
    checkpointer = Checkpointer(workdir, **config.keep)
    state, seed = checkpointer.restore(state)
    start = int(state.step)
    if parallel.is_writer():
        print(_first_line(seed, start, params, data), flush=True)
    step_fn = parallel.mapped_step(
        functools.partial(
            steps.train_step,
            loss_sums=loss_sums,
            optimiser=optimiser,
            ema_decay=config.train.ema_decay,
            accumulation=step_cost.accumulation(config),
        )
    )
    batches = make_batches(config, data.clips, 0 if one_batch else start)
    if one_batch:
        batches = itertools.repeat(next(batches))
    width = len(data.stats.token_mean)
    cost = {
        "flops": step_cost.step_flops(config, params, loss_sums, width),
        "peak": step_cost.step_peak(config),
    }
    with contextlib.closing(checkpointer), logs.opened(workdir, config, start) as log:
        score = validation.scorer(config, data, loss_sums, workdir, log)
        state, metrics = loop(
            *(config, state, step_fn, batches, key, checkpointer, log),
            **{"score": score, "asked": asked, "profiled": traced, **cost},
        )
        if int(state.step) == config.total_steps:
            _export(workdir, checkpointer, state)
    return metrics


def start_workdir(config, workdir, data, one_batch=False):
    """`checkpoints.start_workdir` by the process that writes; the others wait."""
    if parallel.is_writer():
        kept = config.to_dict() | ({"one_batch": True} if one_batch else {})
        state = data.tokenizer_state
        checkpoints.start_workdir(workdir, kept, data.stats, data.metadata, state)
    parallel.wait_for_all("workdir")


def make_batches(config, clips, start, **options):
    """This process's batches from the one after step `start` on."""
    from toktalk_jax.data import pipeline

    return pipeline.batches(
        clips,
        seed=config.seed,
        start_step=start,
        batch_size=config.batch_size,
        window_lengths=tuple(config.train.window_frames),
        style_frames=tuple(config.train.style_frames),
        style_reference=config.train.style_reference,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **options,
    )


def _export(workdir, checkpointer, state):
    """Write the bundle of the last step, and of the best that was kept."""
    best = checkpointer.best()
    found = {"bundle": state}
    if best is not None:
        found["best"], _ = checkpointer.read(state, best)
    if parallel.is_writer():
        for name, kept in found.items():
            checkpoints.export(checkpoints.of_state(workdir, kept), workdir / name)


def _first_line(seed, start, params, data):
    return (
        f"{'resumed' if seed is not None else 'started'} at step {start}: "
        f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.2f} M parameters, "
        f"{len(data.clips)} clips, "
        f"{sum(len(clip.motion) for clip in data.clips) / mo.FPS / 60:.1f} min, "
        f"{jax.device_count()} {jax.local_devices()[0].device_kind} devices of "
        f"{jax.process_count()} processes"
    )


def make_optimiser(config):
    """Adam with the config's schedule and clipping."""
    t = config.train
    schedule = optim.learning_rate(
        t.learning_rate, t.warmup_steps, config.total_steps, t.decay
    )
    return optim.adam(schedule, t.clip_norm)


def check_config(config):
    """Refuse a config that cannot train, naming the key.

    Raises:
      ValueError: what came, what was expected.
    """
    if not config.dataset:
        raise ValueError(
            "config.dataset is empty; give --config.dataset DIR, a directory made by "
            "python -m tools.export_tokens"
        )
    check_settings(config)


def check_settings(config):
    """`check_config` but for the dataset."""
    if config.method not in METHODS:
        raise ValueError(
            f"config.method is {config.method!r}; expected one of {tuple(METHODS)}"
        )
    METHODS[config.method].check(config.to_dict())
    check_run(config)
    parallel.check_batch(config.batch_size, step_cost.accumulation(config))


def check_run(config):
    """The part of `check_config` that every training shares, the adapter's too."""
    t, k = config.train, config.keep
    check_least(
        ("total_steps", config.total_steps, 0),
        ("log_every", config.log_every, 1),
        ("save_every", config.save_every, 1),
        ("stop_after_skips", config.stop_after_skips, 1),
        ("keep.last", k.last, 1),
        ("keep.best", k.best, 0),
        ("validation.clips", config.validation.clips, 0),
        ("train.warmup_steps", t.warmup_steps, 0),
    )
    for name in ("learning_rate", "clip_norm"):
        if not t[name] > 0:
            raise ValueError(f"config.train.{name} is {t[name]}; expected above 0")
    if not 0 <= t.ema_decay < 1:
        raise ValueError(
            f"config.train.ema_decay is {t.ema_decay}; expected 0 or more, below 1"
        )
    if k.best and not (k.metric and config.validation.clips):
        raise ValueError(
            f"config.keep.best is {k.best}, which wants config.keep.metric (is "
            f"{k.metric!r}) and config.validation.clips (is {config.validation.clips})"
        )
    optim.learning_rate(t.learning_rate, t.warmup_steps, config.total_steps, t.decay)


def check_least(*settings):
    """Refuse the first of (key, value, least) whose value is under its least."""
    for name, value, least in settings:
        if value < least:
            raise ValueError(f"config.{name} is {value}; expected at least {least}")


def main(argv):
    """Command line."""
    logging.set_verbosity(logging.ERROR)  # Orbax tells its whole life below
    f = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if not f.workdir and not f.dry_run:
        raise app.UsageError("give --workdir DIR, where the run is kept")
    with command_line.one_line_errors("train"):
        if f.dry_run:
            check_settings(f.config)
            print(step_cost.describe(f.config))
            return
        parallel.join_hosts(f.multihost)
        with preemption.notice() as asked:
            options = {"profile": f.profile_steps, "one_batch": f.overfit_batch}
            metrics = train(f.config, f.workdir, asked=asked, **options)
        if parallel.is_writer():
            print(json.dumps({k: float(v) for k, v in metrics.items()}))


def define_run_flags():
    """Flags that every training has."""
    flags.DEFINE_string("workdir", "", "directory of the run; resumes what is there")
    flags.DEFINE_string(
        "profile_steps",
        "",
        "FIRST:LAST, such as 10:20, counted from where this process starts: a trace of "
        "steps 10 to 19 in WORKDIR/profile; read it with python -m tools.read_profile",
    )
    flags.DEFINE_bool(
        "multihost",
        False,
        "let JAX find the other hosts (TPU pods, MPI); Slurm and the variables "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID need no flag",
    )


if __name__ == "__main__":
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "config file", lock_config=True)
    define_run_flags()
    flags.DEFINE_bool(
        "dry_run",
        False,
        "print the resolved config, its parameters, memory and FLOPs per step; stop",
    )
    flags.DEFINE_bool(
        "overfit_batch", False, "train on the first batch alone, to see it learnt"
    )
    flags.mark_flag_as_required("config")
    command_line.run(main)
