"""Trains as the trainer does, in milliseconds, for tests of what launches it.

    python -m tests.quick_trainer --workdir=DIR --steps=3 --pause=0.01 [--fail=TEXT]

Logs steps, goes on from the last one, saves on SIGTERM and exits 0, leaves config.json
and bundle/meta.json.
"""

import json
import pathlib
import signal
import sys
import time


def main(flags):
    """Train to `steps`; returns what `sys.exit` takes."""
    workdir, steps = pathlib.Path(flags["workdir"]), int(flags["steps"])
    workdir.mkdir(parents=True, exist_ok=True)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    (workdir / "config.json").write_text(json.dumps({"total_steps": steps}))
    log = workdir / "metrics.jsonl"
    start = len(log.read_text().splitlines()) if log.exists() else 0
    print("from step", start, flush=True)
    if flags.get("fail"):
        return f"train: {flags['fail']}"
    for step in range(start + 1, steps + 1):
        if stopped:
            print("saved at step", step - 1)
            return 0
        time.sleep(float(flags["pause"]))
        with log.open("a") as file:
            row = {"step": step, "time": time.time(), "loss": 1 / step}
            file.write(json.dumps(row) + "\n")
    (workdir / "bundle").mkdir(exist_ok=True)
    (workdir / "bundle/meta.json").write_text(json.dumps({"step": steps}))
    return 0


if __name__ == "__main__":
    sys.exit(main(dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:])))
