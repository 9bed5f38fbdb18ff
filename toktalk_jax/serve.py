r"""Serve a trained model live: many voices or token streams in, as many faces out.

    python -m toktalk_jax.serve --checkpoint small --port 8000
    python -m toktalk_jax.serve --adapter hibari_to_small     # says text as well
    TOKTALK_TOKEN=... python -m toktalk_jax.serve --host 0.0.0.0 \
        --origin https://faces.example

Needs the extra [serve]. `/` is a page to talk to: microphone, sound file or text in,
the head, its curves and its latencies out, takes to keep; browsers give a microphone to
127.0.0.1 and to https only. The wire is described in `toktalk_jax/live/protocol.py`;
another client is `tools/live_client.py`. POST /export/KIND makes csv, glb, npz or usd
of motion (`toktalk_jax/live/exports.py`). /healthz tells that the process lives,
/readyz that every shape is compiled and the golden chunk was reproduced, /metrics
speaks Prometheus. SIGTERM lets utterances end and exits 0.

Text is said where the adapter's tokenizer is hibari and hibari-tts is installed (extra
[demo]); ARKit weights and files are those of the stand-in head.

On loopback no token is needed. Elsewhere it is, and TLS belongs in front: a reverse
proxy that ends it and passes WebSockets on, its https origin named by --origin.

Every size offered (C, n) is compiled for every batch up to --max_sessions before it is
ready: minutes at the first start. The programs are kept under --cache for the next.
"""

import argparse
import logging
import os
import pathlib

CACHE = pathlib.Path.home() / ".cache" / "toktalk_jax"


def parser():
    """Of the command line."""
    p = argparse.ArgumentParser(
        "python -m toktalk_jax.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--checkpoint", default="small", help="run, bundle or shipped name")
    p.add_argument("--adapter", default="", help="a second way in; of hibari: text")
    p.add_argument("--weights", default="", help="its tokenizer's, where it needs some")
    p.add_argument("--adapter_weights", default="", help="the adapter's, likewise")
    p.add_argument(
        "--chunk_s", default="0.4,0.24", help="C offered; the first: default"
    )
    p.add_argument("--steps", default="5,10", help="n offered; the first: default")
    p.add_argument("--max_sessions", type=int, default=8)
    p.add_argument("--idle_s", type=float, default=60, help="without a message")
    p.add_argument("--max_s", type=float, default=3600, help="of a session")
    p.add_argument(
        "--drain_s", type=float, default=10, help="for utterances at SIGTERM"
    )
    p.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    p.add_argument("--port", type=int, default=8000, help="0: any free one")
    p.add_argument(
        "--token",
        default=os.environ.get("TOKTALK_TOKEN", ""),
        help="that clients must bring; better set TOKTALK_TOKEN",
    )
    p.add_argument("--origin", action="append", default=[], help="also allowed")
    p.add_argument("--head", default="", help="FLAME file; default: the stand-in")
    p.add_argument("--cache", default=str(CACHE), help="of compiled programs; '': none")
    return p


def main(arguments=None):
    """Command line."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"serve: {error}") from None


def run(args):
    """Serve until a signal comes.

    Raises:
      ValueError, OSError, ImportError: what was asked for cannot be served; says why.
    """
    try:
        import prometheus_client  # noqa: F401
        import wsproto  # noqa: F401

        from toktalk_jax.live import door, pages, room, server
        from toktalk_jax.live.engine import Engine
    except ImportError as error:
        raise ImportError(f"{error}; install this project with [serve]") from None
    import jax

    if args.max_sessions < 1:
        raise ValueError(f"--max_sessions is {args.max_sessions}; expected 1 or more")
    door.check_options(args.host, args.token)
    if args.cache and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", args.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    listening = server.listen(args.host, args.port)
    port = listening.getsockname()[1]
    logging.getLogger("toktalk_jax.live").setLevel(logging.INFO)
    engine = Engine(
        *(args.checkpoint, args.adapter, args.weights, args.adapter_weights),
        chunks=_list(args.chunk_s, float, "--chunk_s"),
        steps=_list(args.steps, int, "--steps"),
        max_sessions=args.max_sessions,
    )
    options = room.Options(
        max_sessions=args.max_sessions,
        limits=room.Limits(idle_s=args.idle_s, max_s=args.max_s),
        drain_s=args.drain_s,
        token=args.token,
        origins=door.origins(args.host, port, args.origin),
    )
    asked = args.token if args.head else ""  # the stand-in may be seen by anybody
    page = pages.Page(engine.bundle.dataset, args.head, options.origins, asked)
    name = f"[{args.host}]" if ":" in args.host else args.host
    greeting = (
        f"http://{name}:{port} is alive: open it in a browser, which tells when it is "
        "ready (as /readyz does)"
    )
    running = server.Server(room.Room(engine, options), page, greeting)
    running.run(sockets=[listening])


def _list(text, kind, flag):
    try:
        values = [kind(x) for x in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) <= 0:
        raise ValueError(f"{flag} is {text!r}; expected numbers, as in 0.4,0.8")
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    main()
