"""Cells as processes of this machine, each with its share of cores and GPUs."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

from tqdm import tqdm

from launch import sweep_cells

GRACE_SECONDS = 60  # a trainer saves and exits within 30 s of SIGTERM


def run(cells, jobs):
    """Run the commands of `cells`, `jobs` at a time, their output to their logs.

    A cell that fails, or that another process runs already, stops no other.

    Raises:
      KeyboardInterrupt: after the children were told to save, and have ended.
    """
    waiting, running = list(cells), {}
    jobs = min(jobs, len(cells))
    with _interrupts() as asked:
        with progress(cells) as bar:
            while (waiting or running) and not asked:
                for slot in range(jobs):
                    if slot in running and running[slot][1].poll() is not None:
                        del running[slot]
                    if slot not in running and waiting:
                        _start(running, slot, waiting.pop(0), jobs)
                started = [cell for cell, _ in running.values()]
                show(bar, cells, waiting, started)
                time.sleep(0.5)
        if asked:
            _stop([process for _, process in running.values()], asked)
            raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupts():
    """A list that grows with every SIGINT and SIGTERM that comes.

    Noted rather than raised: Python drops what a handler raises while a destructor or
    a callback of the garbage collector runs, and JAX has one of those.
    """
    asked = []
    old = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    for number, handler in old.items():
        if handler is not signal.SIG_IGN:  # a shell's background is deaf to Ctrl-C
            signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _start(running, slot, cell, jobs):
    try:
        log = sweep_cells.open_log(cell)
    except BlockingIOError:
        return  # reported as running
    cores, environment = share(slot, jobs)
    with log:
        # A group of its own, or Ctrl-C at the terminal would reach it before it saves.
        process = subprocess.Popen(
            cell.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            process_group=0,
        )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    running[slot] = cell, process


def share(slot, jobs):
    """(cores, environment) of one of `jobs` children: the slot's share of the machine.

    No cores where the system cannot bind them, or has fewer than there are jobs; no
    environment where there are fewer GPUs than jobs (then they share them).
    """
    cores = set()
    if hasattr(os, "sched_setaffinity"):
        cores = set(sorted(os.sched_getaffinity(0))[slot::jobs])
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is None:
        found = sorted(pathlib.Path("/dev").glob("nvidia[0-9]*"))
        gpus = ",".join(path.name.removeprefix("nvidia") for path in found)
    mine = gpus.split(",")[slot::jobs] if gpus else []
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {}
    return cores, environment


def progress(cells):
    """A bar of tqdm over cells."""
    return tqdm(total=len(cells), desc="sweep", unit="cell", mininterval=2)


def show(bar, cells, waiting, started):
    """Move a bar over cells, by the steps that those which run have logged."""
    done = len(cells) - len(waiting) - len(started)
    for cell in started:
        if steps := cell.config.get("total_steps"):
            done += min(1.0, sweep_cells.steps_done(cell) / steps)
    bar.set_postfix_str(f"{len(started)} running, {len(waiting)} waiting", False)
    bar.n = round(done, 2)
    bar.update(0)


def _stop(processes, asked):
    """SIGTERM, so that trainings save; killed once out of time, or asked again."""
    times = len(asked)
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE_SECONDS
    while any(process.poll() is None for process in processes):
        if time.monotonic() > end or len(asked) > times:
            break
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
