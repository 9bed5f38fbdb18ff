r"""Measure a live server: the first frame, sessions at once, a cancel.

    python -m tools.bench_live --json tools/bench_results/live.json
    python -m tools.bench_live --url ws://127.0.0.1:8000/live    # one that runs already

Sound is sent at the pace of speech, in pieces of 20 ms, over loopback. All times are
the client's: from the first sample of an utterance (spoken 20 ms before its piece is
sent) to the arrival of its first frames; from a cancel to its answer, and to the last
old frame that came after it, if one did. A chunk is late if it was sent more than its
own duration after its sound was complete.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import websocket

from toktalk_jax import hardware
from toktalk_jax import motion as mo
from toktalk_jax.live import binary
from toktalk_jax.live.client import Client

PIECE, PIECE_S = 320, 0.02


def voice(seconds, seed=0):
    """[L] f32: noise whose loudness moves as syllables do."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * mo.SAMPLE_RATE)) / mo.SAMPLE_RATE
    loud = np.abs(np.sin(2 * np.pi * 2.5 * t)) * 0.2
    return (loud * rng.normal(size=len(t))).astype(np.float32)


def first_frames_and_cancels(url, token, utterances, settings):
    """({"first_frame_ms", "cancel_ms", "last_old_ms"}: lists), utterance by utterance.

    Each is cancelled at a random moment after its first frames.
    """
    client, rng, sound = Client(url, token, **settings), random.Random(0), voice(3.0)
    found = {"first_frame_ms": [], "cancel_ms": [], "last_old_ms": []}
    chunk_s = client.ready["settings"]["chunk_s"]
    for u in range(utterances):
        seconds = chunk_s * (1 + rng.random() * 2)
        begin = time.perf_counter()
        client.say(sound[: round(seconds * mo.SAMPLE_RATE)], u, PIECE, PIECE_S)
        frames = client.wait(lambda c, u=u: [f for f in c.frames if f.utterance == u])
        first = client.came[client.frames.index(frames[0])]
        found["first_frame_ms"].append(1e3 * (first - begin))
        asked = time.perf_counter()
        client.send("cancel", utterance=u)
        client.told("cancelled", u + 1)
        found["cancel_ms"].append(1e3 * (time.perf_counter() - asked))
        time.sleep(0.1)  # for any stale frame to show
        old = [
            1e3 * (came - asked)
            for f, came in zip(client.frames, client.came, strict=True)
            if f.utterance == u and not f.flags & binary.REST and came > asked
        ]
        found["last_old_ms"].append(max(old, default=0.0))
    client.close()
    return found


def at_once(url, token, sessions, seconds, settings):
    """Of so many sessions that talk together: {"chunks", "late": counts, "wait_ms":
    list, "ledger_ms": medians of the steps between a chunk's sound and its sending}."""
    clients = [Client(url, token, seed=i, **settings) for i in range(sessions)]
    rng = random.Random(1)

    def talk(client, seed):
        time.sleep(rng.random() * client.ready["settings"]["chunk_s"])
        client.say(voice(seconds, seed), 0, PIECE, PIECE_S)
        client.send("end")
        client.told("ended")

    threads = [
        threading.Thread(target=talk, args=(client, i))
        for i, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = [f for c in clients for f in c.frames if not f.flags & binary.REST]
    for client in clients:
        client.close()
    return {
        "chunks": len(frames),
        "late": sum(bool(f.flags & binary.LATE) for f in frames),
        "wait_ms": [f.sent - f.buffered for f in frames],
        "ledger_ms": {
            "tokenised": _median([f.tokenised - f.buffered for f in frames]),
            "solved": _median([f.solved - f.tokenised for f in frames]),
            "sent": _median([f.sent - f.solved for f in frames]),
        },
    }


def _median(values):
    return float(np.median(values))


@contextlib.contextmanager
def server(arguments, token):
    """The URL of a server process of its own, once it is ready."""
    command = [sys.executable, "-m", "toktalk_jax.serve", "--port", "0", *arguments]
    env = {**os.environ, "TOKTALK_TOKEN": token}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        line = process.stdout.readline()
        if not line.startswith("http"):
            raise ValueError("the server did not start")
        page = line.split()[0]
        while not _ready(page):
            if process.poll() is not None:
                raise ValueError("the server ended before it was ready")
            time.sleep(0.2)
        yield page.replace("http", "ws") + "/live"
    finally:
        process.terminate()
        process.wait(30)


def _ready(page):
    try:
        with urllib.request.urlopen(f"{page}/readyz", timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        if json.loads(error.read())["state"] == "failed":
            raise ValueError("the server failed its self-test") from None
        return False


def percentiles(values):
    """{"p50", "p95", "p99", "max"}."""
    return dict(
        zip(
            ("p50", "p95", "p99", "max"),
            map(float, np.percentile(values, [50, 95, 99, 100])),
            strict=True,
        )
    )


def bench(url, token, utterances, sessions, seconds, settings):
    """A JSON-ready dict of all measurements."""
    begun = os.getloadavg()
    alone = first_frames_and_cancels(url, token, utterances, settings)
    found = {name: percentiles(values) for name, values in alone.items()}
    found["sessions"] = {}
    for count in sessions:
        many = at_once(url, token, count, seconds, settings)
        rate = 100 * many["late"] / many["chunks"]
        shown = percentiles(many["wait_ms"]) | {"late_percent": rate}
        shown |= {k: many[k] for k in ("chunks", "ledger_ms")}
        found["sessions"][count] = shown
    cpu = hardware.processor()
    load = {"before": begun[0], "after": os.getloadavg()[0], "cpus": os.cpu_count()}
    about = {"utterances": utterances, "seconds": seconds, "settings": settings}
    return found | about | {"cpu": cpu, "load": load}


def main(arguments=None):
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--url", default="", help="of a server that runs; default: start one"
    )
    p.add_argument("--token", default=os.environ.get("TOKTALK_TOKEN", ""))
    p.add_argument("--checkpoint", default="small", help="for the server to start")
    p.add_argument("--chunk_s", type=float, default=0.4)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--utterances", type=int, default=100)
    p.add_argument("--sessions", default="1,4,8", help="at once")
    p.add_argument("--seconds", type=float, default=20, help="of sound per session")
    p.add_argument("--json", default="", help="file to write")
    args = p.parse_args(arguments)
    sessions = [int(x) for x in args.sessions.split(",")]
    settings = {"chunk_s": args.chunk_s, "steps": args.steps}
    work = args.token, args.utterances, sessions, args.seconds, settings
    own = ["--checkpoint", args.checkpoint, "--max_sessions", str(max(sessions))]
    own += ["--chunk_s", str(args.chunk_s), "--steps", str(args.steps)]
    try:
        with contextlib.ExitStack() as stack:
            url = args.url or stack.enter_context(server(own, args.token))
            found = bench(url, *work)
    except (OSError, ValueError, websocket.WebSocketException) as error:
        raise SystemExit(f"bench_live: {error}") from None
    show(found)
    if args.json:
        with open(args.json, "w") as file:
            file.write(json.dumps(found, indent=1) + "\n")


def show(found):
    """Print the table."""
    print(f"{'ms':34}     p50     p95     p99     max")
    row = lambda name, v: print(  # noqa: E731
        f"{name:34} " + " ".join(f"{v[k]:7.1f}" for k in ("p50", "p95", "p99", "max"))
    )
    row("first frame after first sample", found["first_frame_ms"])
    row("cancel to its answer", found["cancel_ms"])
    row("cancel to the last old frame", found["last_old_ms"])
    for count, many in found["sessions"].items():
        row(f"chunk complete to sent, {count} at once", many)
        steps = ", ".join(f"{k} {v:.1f}" for k, v in many["ledger_ms"].items())
        print(f"    {many['late_percent']:.2f} % of {many['chunks']} late; {steps} ms")
    print(f"load {found['load']['before']:.1f} to {found['load']['after']:.1f}")


if __name__ == "__main__":
    main()
