"""Look into an exported dataset: numbers, a plot, and three clips to watch.

    python -m tools.inspect_dataset data/performer --out inspect

Prints clips, hours, speakers, the share of silence and what each coefficient does;
writes inspect.json, inspect.png and clip_0.html to clip_2.html. The pages hold sound
where the dataset was exported --with_audio, and silence where it was not.
"""

import argparse
import collections
import json
import pathlib

import numpy as np
from absl import logging
from tqdm import tqdm

from toktalk_jax import motion as mo
from toktalk_jax.data import pipeline

SPLITS = ("train", "validation", "test")
SILENCE_DB = -40.0  # under the clip's loud moments (95th percentile of 10 ms levels)
PAGES = 3
PIECE, MEASURED = 100, 20_000  # frames of a piece, pieces that are held in memory


def silence_share(audio):
    """Share of 10 ms pieces 40 dB under the clip's loud moments; audio [L] int16."""
    whole = audio[: len(audio) // 160 * 160].reshape(-1, 160).astype(np.float64)
    if not len(whole):
        return float("nan")
    level = np.sqrt((whole**2).mean(1))
    return float((level < np.percentile(level, 95) * 10 ** (SILENCE_DB / 20)).mean())


class Tally:
    """Facts of one split, clip by clip."""

    def __init__(self):
        self.seconds, self.quiet = [], []
        self.by_speaker = collections.Counter()

    def add(self, clip):
        """Count a clip in."""
        self.seconds.append(len(clip.motion) / mo.FPS)
        self.by_speaker[clip.speaker_id] += self.seconds[-1]
        if clip.audio is not None:
            self.quiet.append(silence_share(clip.audio))

    def facts(self):
        """JSON-ready dict."""
        people = self.by_speaker.most_common()
        return {
            "clips": len(self.seconds),
            "hours": sum(self.seconds) / 3600,
            "seconds_p5_p50_p95": np.percentile(self.seconds, (5, 50, 95)).tolist(),
            "speakers": len(people),
            "minutes_per_speaker": {name: s / 60 for name, s in people},
            "silence_share": float(np.mean(self.quiet)) if self.quiet else None,
        }


class Sample:
    """A random part of a stream of things, each as likely to be in it."""

    def __init__(self, count, rng):
        self.count, self.rng, self.seen, self.kept = count, rng, 0, []

    def add(self, thing):
        """Reservoir sampling (Vitter 1985, algorithm R)."""
        self.seen += 1
        if len(self.kept) < self.count:
            self.kept.append(thing)
        elif (place := self.rng.integers(self.seen)) < self.count:
            self.kept[place] = thing


def coefficient_ranges(motions, face_model):
    """[{name, low, median, high, std}] over the frames, low and high 1 % and 99 %."""
    low, median, high = np.percentile(np.concatenate(motions), (1, 50, 99), axis=0)
    std = np.average(
        [motion.std(0) for motion in motions],
        axis=0,
        weights=[len(motion) for motion in motions],
    )
    names = [f"expression {k}" for k in range(50)]
    if face_model == "stand_in":
        names[: len(mo.ARKIT_EXPRESSION)] = mo.ARKIT_EXPRESSION
    names += [f"{joint} {axis}" for joint in ("jaw", "neck") for axis in "xyz"]
    columns = zip(names, low, median, high, std, strict=True)
    keys = ("name", "low", "median", "high", "std")
    return [
        dict(zip(keys, (row[0], *map(float, row[1:])), strict=True)) for row in columns
    ]


def plot(report, seconds, path):
    """Clip lengths, minutes per speaker, coefficient ranges and live ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 7), layout="constrained")
    axes[0, 0].hist(seconds, bins=40, color="#4878a8")
    axes[0, 0].set(title="clip length", xlabel="seconds", ylabel="clips")
    minutes = report["splits"]["train"]["minutes_per_speaker"]
    shown = [*minutes.items()][:40]
    axes[0, 1].bar(range(len(shown)), [m for _, m in shown], color="#4878a8")
    axes[0, 1].set(
        title=f"train speakers ({len(minutes)})", xlabel="speaker", ylabel="minutes"
    )
    axes[0, 1].xaxis.get_major_locator().set_params(integer=True)
    rows = report["coefficients"]
    place = np.arange(len(rows))
    low, high = (np.array([r[k] for r in rows]) for k in ("low", "high"))
    axes[1, 0].bar(place, high - low, bottom=low, color="#4878a8")
    axes[1, 0].plot(place, [r["median"] for r in rows], ".k", markersize=3)
    axes[1, 0].set(title="coefficients, 1 % to 99 %, dot median", xlabel="index")
    axes[1, 1].bar(place, [r["std"] for r in rows], color="#4878a8")
    axes[1, 1].set(title="std within pieces of 4 s", xlabel="index", yscale="log")
    figure.suptitle(f"{report['corpus']}, {report['tokenizer']} tokens")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_pages(clips, head, joint, out):
    """Each clip as a page; returns their paths."""
    from toktalk_jax.page import write_page

    paths = []
    for k, clip in enumerate(clips):
        if clip.audio is None:
            audio = np.zeros(len(clip.motion) * mo.SAMPLES_PER_FRAME, np.float32)
        else:
            audio = clip.audio.astype(np.float32) / 32768
        page = write_page(
            out / f"clip_{k}.html",
            head,
            [(clip.speaker_id, clip.motion)],
            audio,
            title=clip.clip_id,
            info={"corpus": clip.corpus, "speaker": clip.speaker_id},
            head_joint=joint,
        )
        paths.append(str(page))
    return paths


def inspect(directory, out, head_path="", seed=0):
    """Inspect a dataset directory; returns the report, also in inspect.json."""
    from toktalk_jax.flame import assets

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (metadata,) = pipeline.describe([directory])
    rng, tallies = np.random.default_rng(seed), {split: Tally() for split in SPLITS}
    measured, shown = Sample(MEASURED, rng), Sample(PAGES, rng)
    with tqdm(total=sum(metadata["clips"].values()), unit="clip") as bar:
        for split, tally in tallies.items():
            for clip in pipeline.raw_clips(directory, split):
                tally.add(clip)
                for start in range(0, len(clip.motion), PIECE):
                    measured.add(clip.motion[start : start + PIECE].copy())
                shown.add(clip)
                bar.update()
    kept = ("corpus", "tokenizer", "rate_hz", "dim", "lookahead_s", "face_model")
    report = {
        **{key: metadata[key] for key in kept},
        "skipped": metadata["skipped"],
        "splits": {s: tally.facts() for s, tally in tallies.items() if tally.seconds},
        "coefficients_of_frames": sum(map(len, measured.kept)),
        "coefficients": coefficient_ranges(measured.kept, metadata["face_model"]),
    }
    report["moving"] = sum(row["std"] > 1e-3 for row in report["coefficients"])
    seconds = [s for tally in tallies.values() for s in tally.seconds]
    plot(report, seconds, out / "inspect.png")
    if metadata["face_model"] == "stand_in" or head_path:
        head = assets.head_of(metadata, head_path)
        joint = metadata["head_joint"]
        report["pages"] = write_pages(shown.kept, head, joint, out)
    else:
        report["pages"] = []
    (out / "inspect.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def table(report):
    """The report as text."""
    lines = [
        f"{report['corpus']}: {report['tokenizer']} tokens, {report['dim']} wide at "
        f"{report['rate_hz']} Hz; face model {report['face_model']}; "
        f"{report['skipped']} clips skipped",
        f"{'split':11} {'clips':>7} {'hours':>8} {'speakers':>9} {'silence':>8}"
        f" {'length p5 p50 p95, s':>22}",
    ]
    for split, facts in report["splits"].items():
        quiet = facts["silence_share"]
        quiet = "no sound" if quiet is None else f"{100 * quiet:.0f} %"
        lengths = " ".join(f"{s:.1f}" for s in facts["seconds_p5_p50_p95"])
        lines.append(
            f"{split:11} {facts['clips']:7d} {facts['hours']:8.3f} "
            f"{facts['speakers']:9d} {quiet:>8} {lengths:>22}"
        )
    lines.append(f"\n{report['moving']} of {mo.F} coefficients move; the widest:")
    widest = sorted(report["coefficients"], key=lambda row: -row["std"])[:8]
    lines.append(f"{'coefficient':20} {'1 %':>8} {'median':>8} {'99 %':>8} {'std':>8}")
    for row in widest:
        values = (row[k] for k in ("low", "median", "high", "std"))
        lines.append(f"{row['name']:20} " + " ".join(f"{v:8.3f}" for v in values))
    return "\n".join(lines)


def main(argv=None):
    """Entry point."""
    p = argparse.ArgumentParser(
        prog="inspect_dataset", description=__doc__.split("\n")[0]
    )
    p.add_argument("directory", help="dataset directory, as export_tokens wrote it")
    p.add_argument("--out", default="inspect", help="folder for plot and pages")
    p.add_argument("--head", default="", help="FLAME file, for pages of its motion")
    p.add_argument("--seed", type=int, default=0, help="of the choice of clips")
    args = p.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of its own deprecations
    try:
        report = inspect(args.directory, args.out, args.head, args.seed)
    except (ValueError, OSError) as error:
        raise SystemExit(f"inspect_dataset: {error}") from None
    print(table(report))
    print(f"\n{args.out}/inspect.png, inspect.json")
    for page in report["pages"]:
        print(page)
    if not report["pages"]:
        print(f"no pages: name the file of {report['face_model']} with --head")


if __name__ == "__main__":
    main()
