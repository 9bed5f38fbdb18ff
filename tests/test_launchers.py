"""Launch scripts: syntax, help, dry runs, JobSet's fields; a real Slurm (long)."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

from launch import sweep_cells, sweep_slurm
from tests.conftest import ROOT
from tests.tiny_sweep import TRAINING_ENVIRONMENT, quick_cell, until, write_sweep

SCRIPTS = ("one_node_slurm.sh", "tpu_vm.sh", "slurm.sbatch")


def bash(*arguments, **options):
    return subprocess.run(
        ["bash", *map(str, arguments)],
        **{
            "cwd": ROOT,
            "capture_output": True,
            "text": True,
            "timeout": 120,
            **options,
        },
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse_and_help(script):
    assert bash("-n", f"launch/{script}").returncode == 0
    done = bash(f"launch/{script}", "--help")
    assert done.returncode == 0 and script in done.stdout and not done.stderr


def tpu(*arguments):
    return bash("launch/tpu_vm.sh", *arguments)


def test_a_tpu_vm_is_made_installed_run_and_deleted():
    command = ["python", "-m", "toktalk_jax.train", "--config.model.channels=(32, 32)"]
    where = ("--name=pod", "--zone=z")
    assert tpu(*where).returncode == 2  # flags take their value apart
    where = ("--name", "pod", "--zone", "us-central2-b", "--dry_run")
    done = tpu(*where, "--type", "v4-16", "--queue", "--delete", "--", *command)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    create, archive, copy, install, run, delete = lines
    assert create[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--accelerator-type=v4-16", "--node-id=pod"} <= {*create}
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    assert archive[:2] == ["git", "archive"] and copy[4] == "scp"
    for line in (copy, install, run):
        assert "--worker=all" in line and "--zone=us-central2-b" in line
    ran = run[-1].removeprefix("--command=")
    assert shlex.split(ran.partition("activate && ")[2]) == command
    assert bash("-n", "-c", install[-1].removeprefix("--command=")).returncode == 0
    assert delete[4] == "delete"
    plain = tpu(*where, "--spot", "--", "true").stdout.splitlines()
    assert len(plain) == 5 and "tpu-vm create pod" in plain[0] and "--spot" in plain[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--zone", "z", "--", "true"], "--name is missing"),
        (["--name", "n", "--", "true"], "--zone is missing"),
        (["--name", "n", "--zone", "z"], "no command; give it after --"),
        (["--nam", "n"], "unknown argument --nam"),
        (["--name", "n", "--zone", "z", "--type", "v9-8", "--", "true"], "--type v9-8"),
    ],
)
def test_a_tpu_vm_mistake_is_named(arguments, told):
    done = tpu(*arguments)
    assert done.returncode == 2 and told in done.stderr
    assert len(done.stderr.splitlines()) == 1


# JobSet -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())


def test_jobset_says_what_its_api_requires(jobset):
    """Fields and host names of jobset.x-k8s.io/v1alpha2's reference."""
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    # Process ids are the pods' indices in one job: more jobs would repeat them.
    assert workers["replicas"] == 1 and job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 30
    (container,) = pod["containers"]
    env = {e["name"]: e.get("value") or e["valueFrom"] for e in container["env"]}
    host, port = env["JAX_COORDINATOR_ADDRESS"].split(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{workers['name']}-0-0.{name}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert int(env["JAX_NUM_PROCESSES"]) == job["completions"]
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert env["JAX_PROCESS_ID"] == {"fieldRef": {"fieldPath": index}}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert container["args"][:3] == ["python", "-m", "toktalk_jax.train"]


@pytest.mark.parametrize("steps", [3, 10_000])
def test_a_pod_that_was_told_to_stop_has_not_succeeded(jobset, tmp_path, steps):
    pods = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    command = pods["spec"]["containers"][0]["command"]
    cell = quick_cell(tmp_path, "pod", steps=steps, pause=0.02)
    pod = subprocess.Popen([*command, *cell.argv], cwd=ROOT, stdout=subprocess.PIPE)
    if steps > 3:
        until(lambda: sweep_cells.steps_done(cell) >= 2)
        pod.send_signal(signal.SIGTERM)
    said = pod.communicate(timeout=60)[0].decode()
    assert pod.returncode == (143 if steps > 3 else 0)
    assert ("saved at step" in said) == (steps > 3)


# A real Slurm -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node; skips where it cannot start."""
    folder = tmp_path_factory.mktemp("slurm")
    done = bash("launch/one_node_slurm.sh", "start", folder)
    if done.returncode:
        pytest.skip(f"no Slurm here: {done.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(ROOT)
        yield folder
    bash("launch/one_node_slurm.sh", "stop", folder)
    for name in ("munged", "slurmctld", "slurmd"):
        assert not (folder / f"{name}.pid").exists()


def started_times(cell):
    return cell.log.read_text().count("from step") if cell.log.exists() else 0


@pytest.mark.long
@pytest.mark.parametrize("number", ["USR2", "TERM"])
def test_a_job_that_slurm_stops_saves_and_is_queued_again(slurm, tmp_path, number):
    """USR2 is what Slurm sends before the time is up; TERM came from elsewhere."""
    cells = [quick_cell(tmp_path / "out", n, steps=400, pause=0.05) for n in "ab"]
    made = sweep_slurm.executor(["cpus_per_task=1"], 2, tmp_path / "out/slurm")
    ids = sweep_slurm.submit(cells, made)
    until(lambda: all(sweep_cells.steps_done(cell) >= 3 for cell in cells))
    # Asked again, it submits nothing that is in the queue.
    assert sweep_slurm.submit(cells, made) == ids
    subprocess.run(["scancel", f"--signal={number}", ids["a"]], check=True)
    sweep_slurm.wait(cells, ids, seconds=1)
    a, b = cells
    assert all(sweep_cells.finished(cell) for cell in cells)
    assert "saved at step" in a.log.read_text() and started_times(a) == 2
    assert started_times(b) == 1
    assert sweep_cells.steps_done(a) == 400


@pytest.mark.long
def test_a_cancelled_job_stays_cancelled(slurm, tmp_path):
    cell = quick_cell(tmp_path / "out", "a", steps=10_000, pause=0.05)
    made = sweep_slurm.executor([], 1, tmp_path / "out/slurm")
    ids = sweep_slurm.submit([cell], made)
    until(lambda: sweep_cells.steps_done(cell) >= 3)
    subprocess.run(["scancel", ids["a"]], check=True)
    sweep_slurm.wait([cell], ids, seconds=1)
    assert sweep_cells.status(cell) == "unfinished" and started_times(cell) == 1


@pytest.mark.long
def test_a_real_sweep_under_slurm_fails_alone_and_resumes(
    slurm, tiny_dataset, tmp_path
):
    """Two trainings, one of which cannot build; detached, waited for, then again."""
    body = "yield {'train.objective': 'flow'}; yield {'train.objective': 'flw'}"
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "launch.sweep"),
        write_sweep(tmp_path / "own.py", body),
        *(f"--config.dataset={tiny_dataset}", f"--out={out}"),
    ]
    jobs = ["--run=slurm", "--jobs=2", "--slurm=cpus_per_task=1"]
    environment = os.environ | TRAINING_ENVIRONMENT

    def run(*flags):
        return subprocess.run(
            [*command, *flags], env=environment, capture_output=True, text=True
        )

    detached = run(*jobs, "--detach")
    assert detached.returncode == 0, detached.stderr[-2000:]
    ids, table = detached.stdout.splitlines()
    assert len(ids.split()) == 2 and table.endswith("--table")
    done = run(*jobs)
    assert done.returncode == 1, done.stderr[-2000:]
    assert ids in done.stdout  # waited for those, submitted none
    failed = "unfinished: train.objective=flw: train: config.train.objective is 'flw'"
    assert failed in done.stdout
    good = out / "train.objective=flow"
    assert (good / "bundle/params.npz").is_file()
    before = (good / "metrics.jsonl").stat().st_mtime_ns
    again = run(*jobs)
    assert again.returncode == 1 and "1 of 2 cells are finished" in again.stdout
    assert (good / "metrics.jsonl").stat().st_mtime_ns == before
    made = subprocess.run(
        shlex.split(table), env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert "| flow | finished | 6 |" in (out / "table.md").read_text()


@pytest.mark.long
def test_the_batch_script_trains_saves_and_is_queued_again(slurm, tmp_path):
    """With a stand-in for python, so that it takes seconds."""
    bin = tmp_path / "venv/bin"
    bin.mkdir(parents=True)
    (bin / "activate").write_text(f'PATH="{bin}:$PATH"\n')
    (bin / "python").write_text(
        f'#!/bin/sh\nshift 2\nexec {sys.executable} -m tests.quick_trainer "$@"\n'
    )
    (bin / "python").chmod(0o755)
    cell = quick_cell(tmp_path, "run", steps=200, pause=0.05)
    options = ["--parsable", "--gpus-per-node=0", "--cpus-per-task=1"]
    output = tmp_path / "job.log"
    submitted = subprocess.run(
        ["sbatch", *options, f"--output={output}", "launch/slurm.sbatch"]
        + list(cell.command[1:]),
        env=os.environ | {"VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
    )
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    until(lambda: sweep_cells.steps_done(cell) >= 3)
    subprocess.run(["scancel", "--batch", "--signal=TERM", job], check=True)
    until(lambda: job not in sweep_slurm.queue(), 120)
    said = output.read_text()
    assert sweep_cells.finished(cell), said
    assert said.count("from step") == 2 and said.count("saved at step") == 1
