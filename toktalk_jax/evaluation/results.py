"""A row of results: one method on one set of clips, kept as JSON with every score.

Nothing in it depends on when it was written, and a later table can pair two rows clip
by clip without running either again.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import subprocess

import numpy as np

from toktalk_jax.evaluation import intervals, metrics
from toktalk_jax.training.logs import write_whole

# What a row is: the same identity overwrites, another identity never does.
IDENTITY = ("name", "config_hash", "dataset_hash", "weights", "seed")
_LATER = (
    "key",
    "measured",
    "data",
    "scored",
)  # fields that rows written before them lack


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one set of clips.

    Attributes:
      name: the method; scores: {clip_id: dict of `scoring.score_clip`, and "speaker"}.
      corpus, speakers, vocabulary: what was scored, for the table's head ("GRID", 1,
        "51 words").
      head: face model's name; regions: {region: vertex hash} (`scoring.region_hashes`).
      samples: samples per clip behind the energy score; 1 for a deterministic row.
      weights: which were scored, with their hash ("ema at step 12000, 6996fed1b35a");
        "none" for a baseline that has none.
      seed, commit, config_hash, dataset_hash, device: where it came from.
      skipped: {clip_id: reason} of clips that could not be scored at all.
      note: look-ahead, context, anything a reader must know.
      key: what a table finds the row by ("": the row belongs to none).
      measured: {name: number} beside the scores: milliseconds on `device`, or others.
      data: what names the datasets that were scored, a dict for each; []: unknown.
      scored: which frames of a clip, "all" or "second_half".
      redefined: {metric: its definition when the row was scored}, of those that
        `metrics.DEFINITIONS` now has otherwise.
    """

    name: str
    scores: dict
    corpus: str
    speakers: int
    vocabulary: str
    head: str
    regions: dict
    samples: int
    weights: str
    seed: int
    commit: str
    config_hash: str
    dataset_hash: str
    device: str
    skipped: dict = dataclasses.field(default_factory=dict)
    note: str = ""
    key: str = ""
    measured: dict = dataclasses.field(default_factory=dict)
    data: list = dataclasses.field(default_factory=list)
    scored: str = "all"
    redefined: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def values(self):
        """{metric: `intervals.Interval`} of the metrics that any clip scored."""
        present = set().union(*self.scores.values())
        return {
            metric: intervals.interval(self.scores, metric)
            for metric in metrics.DEFINITIONS
            if metric in present
        }

    @functools.cached_property
    def over_samples(self):
        """{metric: {"best", "mean", "spread": Interval}} over the samples of a clip.

        Best is the lowest of a clip's samples, spread their standard deviation; each is
        a mean over clips.
        """
        kept = {name: s["samples"] for name, s in self.scores.items() if "samples" in s}
        scored = next(iter(kept.values()), {})
        kinds = {"best": np.min, "mean": np.mean, "spread": _spread}
        return {
            metric: {
                kind: intervals.interval(
                    {
                        clip: {metric: of(found[metric])} | self._speaker(clip)
                        for clip, found in kept.items()
                    },
                    metric,
                )
                for kind, of in kinds.items()
            }
            for metric in metrics.DEFINITIONS
            if metric in scored
        }

    def _speaker(self, clip):
        found = self.scores[clip]
        return {"speaker": found["speaker"]} if "speaker" in found else {}

    def hash(self):
        """What its file is named by: its key, or 12 hex digits of the IDENTITY."""
        if self.key:
            return self.key
        fields = json.dumps([getattr(self, name) for name in IDENTITY])
        return hashlib.sha256(fields.encode()).hexdigest()[:12]


def _spread(values):
    return np.std(values, ddof=1)


def commit(root=None):
    """The checkout's commit, with "-dirty" if files differ; "unknown" outside one."""
    root = root or pathlib.Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def to_json(row, with_scores=True):
    """JSON-ready dict of a row: its fields, its intervals, its definitions."""
    fields = dataclasses.asdict(row)
    scores = fields.pop("scores")
    values = row.values
    fields["clips"] = len(scores)
    fields["metrics"] = {metric: value._asdict() for metric, value in values.items()}
    fields["over_samples"] = {
        metric: {kind: value._asdict() for kind, value in found.items()}
        for metric, found in row.over_samples.items()
    }
    today = {metric: metrics.DEFINITIONS[metric] for metric in values}
    fields["definitions"] = today | fields.pop("redefined")
    if with_scores:
        fields["scores"] = scores
    return fields


def write_row(directory, row):
    """Write `<hash>.json`; a row of the same identity is replaced. Returns the path.

    Raises:
      ValueError: the row scored no clip, or holds a number that is not finite.
    """
    if not row.scores and not row.measured:
        first = next(iter(row.skipped.items()), ("no clip", "none was given"))
        raise ValueError(
            f"row {row.name!r} scored none of {len(row.skipped)} clips; "
            f"{first[0]}: {first[1]}"
        )
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    compact = {"separators": (",", ":"), "allow_nan": False, "sort_keys": True}
    text = json.dumps(to_json(row), **compact)
    return write_whole(directory / f"{row.hash()}.json", text + "\n")


def load_rows(directory):
    """All rows of a directory, sorted by name and hash.

    Raises:
      ValueError: a file is no row; names the file and what it lacks.
    """
    return sorted(
        (_load(path) for path in pathlib.Path(directory).glob("*.json")),
        key=lambda row: (row.name, row.hash()),
    )


def _load(path):
    try:
        stored = json.loads(path.read_text())
        optional = (*_LATER, "redefined")
        needed = [f.name for f in dataclasses.fields(Row) if f.name not in optional]
        fields = {name: stored[name] for name in needed}
        fields |= {name: stored[name] for name in _LATER if name in stored}
        fields["redefined"] = {
            metric: words
            for metric, words in stored.get("definitions", {}).items()
            if list(words) != list(metrics.DEFINITIONS.get(metric, ()))
        }
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a row of results: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} is not a row of results: it lacks {error}") from error
    return Row(**fields)
