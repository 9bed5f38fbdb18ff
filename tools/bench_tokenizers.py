r"""Time the tokenizers: clips per second, real-time factor, bytes of an hour.

    python -m tools.bench_tokenizers --weights lyra=DIR --random mimi,wav2vec2,hubert \
        --json tools/bench_results/tokenizers_cpu.json

Each embeds the same clips of noise in syllables, one by one after a warm-up, as an
export on one process does. --random times a network of the true size with random
weights, where its weights are out of reach: the same work, meaningless tokens. The
real-time factor is work over sound; hours of sound per hour is its inverse.
"""

import argparse
import json
import pathlib
import platform
import tempfile
import time

import numpy as np
from tqdm import tqdm

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import load
from tools.export_tokens import SHIPPED_STATE

TRUE_SIZE = {  # transformers' defaults are the public base models'
    "mimi": ("MimiConfig", "MimiModel"),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model"),
    "hubert": ("HubertConfig", "HubertModel"),
}
NEED_NOTHING = ("mel_rvq", "whisper", "whisper:causal")


def random_weights(name, folder):
    """Write a network of the true size with random weights, in its own file layout."""
    import transformers

    config, model = (getattr(transformers, part) for part in TRUE_SIZE[name])
    model(config()).save_pretrained(folder)
    if name != "mimi":
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def syllables(seconds, seed):
    """[L] f32: noise that rises and falls five times a second."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * mo.SAMPLE_RATE)) / mo.SAMPLE_RATE
    level = 0.1 * np.sin(2 * np.pi * 2.5 * time_s) ** 2
    return (level * rng.standard_normal(len(time_s))).astype(np.float32)


def measure(tokenizer, clips):
    """Seconds per clip and what comes out, as a JSON-ready dict."""
    tokenizer.embed(clips[0])
    spent = []
    for clip in tqdm(clips, desc=tokenizer.name, unit="clip", leave=False):
        begin = time.perf_counter()
        tokenizer.embed(clip)
        spent.append(time.perf_counter() - begin)
    seconds = len(clips[0]) / mo.SAMPLE_RATE
    factor = float(np.median(spent)) / seconds
    return {
        "clips_per_s": 1 / float(np.median(spent)),
        "real_time_factor": factor,
        "p95_s": float(np.percentile(spent, 95)),
        "hours_per_hour": 1 / factor,
        # What a dataset holds of each hour: f32 embeddings and int32 codes.
        "megabytes_per_hour": 3600
        * tokenizer.rate_hz
        * 4
        * (tokenizer.dim + tokenizer.num_codes)
        / 1e6,
    }


def main(argv=None):
    """Entry point."""
    p = argparse.ArgumentParser(
        prog="bench_tokenizers", description=__doc__.split("\n")[0]
    )
    p.add_argument(
        "--tokenizers",
        default=",".join(NEED_NOTHING),
        help="names, joined by commas, of those whose weights a package or this "
        "project brings",
    )
    p.add_argument(
        "--weights", nargs="*", default=[], metavar="NAME=PATH", help="more of them"
    )
    p.add_argument("--random", default="", help=f"of {', '.join(TRUE_SIZE)}")
    p.add_argument("--clips", type=int, default=20)
    p.add_argument("--seconds", type=float, default=3.0, help="per clip")
    p.add_argument("--device", default="cpu", help="cpu | cuda")
    p.add_argument("--json", default="", help="file to write")
    args = p.parse_args(argv)
    clips = [syllables(args.seconds, k) for k in range(args.clips)]
    wanted = [(name, "", name) for name in args.tokenizers.split(",") if name]
    for name, is_sign, path in (pair.partition("=") for pair in args.weights):
        if not is_sign:
            p.error(f"--weights {name}: expected NAME=PATH")
        wanted.append((name, path, name))
    rows = {}
    print(f"{'tokenizer':20} {'clips/s':>8} {'RTF':>8} {'h per h':>8} {'MB per h':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for name in [name for name in args.random.split(",") if name]:
            random_weights(name, pathlib.Path(folder) / name)
            wanted.append((name, pathlib.Path(folder) / name, f"{name} (random)"))
        for name, weights, label in wanted:
            try:
                tokenizer = load.load(name, weights, SHIPPED_STATE, args.device)
            except (ValueError, OSError, ImportError) as error:
                raise SystemExit(f"bench_tokenizers: {error}") from None
            row = rows[label] = measure(tokenizer, clips)
            print(
                f"{label:20} {row['clips_per_s']:8.2f} {row['real_time_factor']:8.4f} "
                f"{row['hours_per_hour']:8.1f} {row['megabytes_per_hour']:9.1f}",
                flush=True,
            )
    if args.json:
        path = pathlib.Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"seconds": args.seconds, "clips": args.clips, "device": args.device}
        about["python"] = platform.python_version()
        path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
