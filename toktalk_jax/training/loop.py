"""The loop of every training, top to bottom: batch, step, log, score, save, stop."""

import contextlib
import time

import jax
import numpy as np

from toktalk_jax.training import parallel, profile


def loop(
    config,
    state,
    step_fn,
    batches,
    key,
    checkpointer,
    writer,
    *,
    score=None,
    asked=lambda step: False,
    profiled=None,
    flops=0.0,
    peak=0.0,
):
    """Train from `state` to `config.total_steps`, or until asked to stop.

    Args:
      config: total_steps, log_every, save_every, stop_after_skips, seed are read.
      step_fn: `parallel.mapped_step`; batches: this process's; key: root of all noise.
      writer: `logs.Writer`, or None on a process that writes nothing.
      score: (state, step) -> {name: number} of a state that is about to be saved.
      asked: step -> whether to save after it and stop, see `preemption`.
      profiled: (steps, directory): an XProf trace of this range of steps, counted from
        where this process starts.
      flops: of one step, all devices; peak: FLOP/s of all devices, for the MFU.

    Returns:
      (state, last metrics).

    Raises:
      FloatingPointError: `stop_after_skips` steps in a row were not finite; the batch
        of the last is kept in the workdir.
    """
    key = parallel.replicate(jax.random.fold_in(key, 1))
    start = int(state.step)
    clock, metrics, seen = Clock(start, flops, peak), {}, None
    with _progress(start, config.total_steps) as progress, _Trace(profiled) as trace:
        for step in range(start + 1, config.total_steps + 1):
            trace.before(step - start, state)
            batch, placed = clock.wait(batches, seen and seen[2]["loss"])
            with jax.profiler.StepTraceAnnotation(profile.STEP, step_num=step):
                state, metrics = step_fn(state, placed, key)
            trace.after(step - start, state)
            _check_skips(seen, config, checkpointer)  # while this step runs
            seen = step, batch, metrics
            stop = asked(step)
            last = stop or step == config.total_steps
            if step % config.log_every == 0 or last:
                metrics = jax.device_get(metrics)
                _log(writer, progress, step, {**metrics, **clock.read(step)})
            if step % config.save_every == 0 or last:
                with clock.stopped():
                    # Who is asked to stop has no time to be scored.
                    scores = score(state, step) if score and not stop else {}
                    if scores:
                        _log(writer, progress, step, scores)
                    checkpointer.save(state, config.seed, scores)
            progress.update()
            if stop:
                break
        _check_skips(seen, config, checkpointer)
    return state, metrics


def next_batch(batches, running=None):
    """The next batch, drawn while a step runs.

    Args:
      running: a result of that step; None: nothing runs.

    Returns:
      (batch, the same on the devices, seconds that these waited for it): nothing if the
      step was still running when it had come, else all of the time, at most too much.
    """
    before = time.perf_counter()
    with jax.profiler.TraceAnnotation(profile.INPUT):
        batch = next(batches)
        placed = parallel.split(batch)
    hidden = running is not None and not running.is_ready()
    return batch, placed, 0.0 if hidden else time.perf_counter() - before


class Clock:
    """Where the time of the steps between two log lines went.

    Args:
      step: the last before the first; flops, peak: as in `loop`.
    """

    def __init__(self, step, flops=0.0, peak=0.0):
        self._flops, self._peak = flops, peak
        self._restart(step)

    def _restart(self, step):
        self._step, self._since = step, time.perf_counter()
        self._waited, self._frames = 0.0, 0

    def wait(self, batches, running=None):
        """(batch, the same on the devices); how long these waited is remembered."""
        batch, placed, seconds = next_batch(batches, running)
        self._waited += seconds
        self._frames += int(np.sum(batch["mask"])) * jax.process_count()
        return batch, placed

    @contextlib.contextmanager
    def stopped(self):
        """What happens within is no part of the steps."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def read(self, step):
        """Numbers of the steps since the last reading, which ends here.

        `step_ms`; `input_share`, see `next_batch`; `frames_per_s`, valid motion frames;
        `mfu`, the share of the peak that the matmuls of the step attain.
        """
        spent, steps = time.perf_counter() - self._since, step - self._step
        found = {
            "step_ms": 1e3 * spent / steps,
            "input_share": self._waited / spent,
            "frames_per_s": self._frames / spent,
        }
        if self._flops and self._peak:
            found["mfu"] = self._flops * steps / spent / self._peak
        self._restart(step)
        return found


def _log(writer, progress, step, values):
    if writer:
        writer.scalars(step, values)
    if "loss" in values:
        progress.set_postfix(loss=f"{values['loss']:.4f}")


def _check_skips(seen, config, checkpointer):
    """Stop a run whose steps are all skipped, and keep the batch that did it."""
    if seen is None or int(seen[2]["in_a_row"]) < config.stop_after_skips:
        return
    step, batch, metrics = seen
    path = checkpointer.path.parent / f"bad_batch_{step}_{jax.process_index()}.npz"
    np.savez_compressed(path, **batch)
    raise FloatingPointError(
        f"loss or gradient was not finite in {int(metrics['in_a_row'])} steps in a "
        f"row, up to step {step} (loss {float(metrics['loss'])}, gradient norm "
        f"{float(metrics['gradient_norm'])}); its batch is in {path}, the last "
        f"checkpoint is step {checkpointer.latest()}; lower train.learning_rate, or "
        "look at the dataset with python -m tools.inspect_dataset"
    )


class _Trace:
    """An XProf trace of some steps of this process, or none."""

    def __init__(self, profiled):
        self._steps, self._directory = profiled or (range(0), "")
        self._stack = contextlib.ExitStack()

    def before(self, count, state):
        if self._steps and count == self._steps[0]:
            jax.block_until_ready(state)  # no earlier step is in the trace
            self._stack.enter_context(profile.trace(self._directory))

    def after(self, count, state):
        if self._steps and count == self._steps[-1]:
            jax.block_until_ready(state)
            self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()


def _progress(start, total):
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=start,
        unit="step",
        desc="train",
        mininterval=1,
        disable=not parallel.is_writer(),
    )
