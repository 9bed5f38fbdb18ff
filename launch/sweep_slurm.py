"""Cells as a job array of Slurm, through submitit."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from launch import sweep_cells, sweep_local

LISTS = ("setup", "teardown", "srun_args")  # parameters that may come several times
ONCE_AN_HOUR = 60  # minutes of a job where --slurm does not say; it then goes on


class Job:
    """What runs on the node: a cell's command, told to save when its time is up.

    Slurm sends SIGUSR2 to every process of a job before it ends or preempts it.
    submitit then asks for the `checkpoint`, and requeues the job with it.
    """

    def __init__(self, cell):
        self.cell, self.child = cell, None

    def __call__(self):
        rank = int(os.environ.get("SLURM_PROCID", 0))
        # Blocked signals stay so in children: the trainer knows SIGTERM alone.
        notice = {signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, notice)
        with sweep_cells.open_log(self.cell, f".{rank}" if rank else "") as log:
            self.child = subprocess.Popen(
                self.cell.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if rank:  # submitit asks the first task alone
            signal.signal(signal.SIGUSR2, lambda *_: self.child.terminate())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, notice)
        code = self.child.wait()
        if code:
            raise RuntimeError(f"exit code {code}: {sweep_cells.last_line(self.cell)}")
        if not rank and not sweep_cells.finished(self.cell):
            _requeue()

    def checkpoint(self):
        """The same job again, once the trainer has saved; None if it has finished."""
        from submitit.helpers import DelayedSubmission

        if self.child:
            self.child.terminate()
            # Not Popen.wait: this handler may stand inside the one of __call__.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        if sweep_cells.finished(self.cell):
            return None
        return DelayedSubmission(Job(self.cell))


def _requeue():
    """After a SIGTERM that Slurm itself did not follow up (it requeues preempted jobs).

    A cancelled job is not running any more, and stays cancelled.
    """
    from submitit import JobEnvironment

    job = JobEnvironment().job_id
    shown = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    if "JobState=RUNNING" in shown:
        subprocess.run(["scontrol", "requeue", job], check=True)
        sys.exit(-1)  # returning would call it done


def executor(given, jobs, folder):
    """submitit's executor.

    Args:
      given: "key=value" strings, submitit's or sbatch's names; jobs: at a time.

    Raises:
      ValueError: names the parameter; RuntimeError: there is no Slurm here.
    """
    try:
        import submitit
    except ImportError:
        raise RuntimeError(
            '--run slurm needs submitit: pip install -e ".[slurm]"'
        ) from None
    parameters = {"timeout_min": ONCE_AN_HOUR, "array_parallelism": jobs}
    for text in given:
        name, equals, value = text.partition("=")
        if not re.fullmatch(r"[a-z]\w*", name) or not equals or not value:
            raise ValueError(f"--slurm {text}: expected key=value")
        if name in LISTS:
            parameters[name] = [*parameters.get(name, []), value]
        else:
            parameters[name] = int(value) if value.isdecimal() else value
    parameters["additional_parameters"] = {"requeue": True}
    try:
        made = submitit.AutoExecutor(folder, "slurm", slurm_max_num_timeout=1000)
    except RuntimeError:
        raise RuntimeError(
            "--run slurm: no srun on this machine; is it a login node of a cluster?"
        ) from None
    try:
        made.update_parameters(**{f"slurm_{k}": v for k, v in parameters.items()})
    except NameError as error:
        raise ValueError(f"--slurm: {str(error).splitlines()[0]}") from None
    return made


def submit(cells, made):
    """Submit those that no earlier call has in the queue; returns {name: job id}.

    Raises:
      RuntimeError: Slurm does not answer, or refuses the jobs.
    """
    from submitit.core.utils import FailedJobError

    kept = pathlib.Path(made.folder) / "jobs.json"
    ids = json.loads(kept.read_text()) if kept.is_file() else {}
    queued = queue()
    new = [cell for cell in cells if ids.get(cell.name) not in queued]
    if new:
        try:
            with made.batch():
                jobs = [made.submit(Job(cell)) for cell in new]
        except FailedJobError as error:
            said = str(error).strip().splitlines()[-1]
            raise RuntimeError(f"sbatch refused the jobs: {said}") from None
        ids |= {cell.name: job.job_id for cell, job in zip(new, jobs, strict=True)}
        kept.write_text(json.dumps(ids, indent=1))
    return {cell.name: ids[cell.name] for cell in cells}


def queue():
    """Ids of this user's jobs that wait or run.

    Not sacct, which submitit asks: many clusters keep no accounts.

    Raises:
      RuntimeError: Slurm does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"squeue: {done.stderr.strip() or done.stdout.strip()}")
    return {*done.stdout.split()}


def wait(cells, ids, seconds=5):
    """Until no job of these is in the queue; requeued ones are."""
    with sweep_local.progress(cells) as bar:
        while True:
            try:
                queued = queue()
            except RuntimeError as error:  # a controller that restarts is no end
                bar.write(str(error))
            else:
                left = [cell for cell in cells if ids[cell.name] in queued]
                sweep_local.show(bar, cells, [], left)
                if not left:
                    return
            time.sleep(seconds)
