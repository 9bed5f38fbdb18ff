"""An export's work spread over processes or machines by Apache Beam.

Each worker reads a part of the corpus and encodes its clips with the functions that one
process uses (`spool.encoded`, `builder.serialise_all`), so the shards are those of an
export without Beam, byte for byte on like machines. A finished part is kept
(`parts.py`); Beam itself moves only the places of the records. Source and dataset
directory must lie on a file system that every worker sees.
"""

import functools
import logging
import math
import os
import pathlib
import threading

from toktalk_jax.data import builder, parts, spool

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.utils import shared
except ImportError as error:
    raise ImportError(
        "--runner beam needs Apache Beam, which is not installed; install this project "
        "with the [beam] extra"
    ) from error

PARTS, LARGEST = 64, 32  # parts of a corpus, and items of one where those are more


class PipelineFailed(ValueError):
    """The pipeline ended with an error; the message holds the worker's."""


def runner(open_work, read, tokenizer, flags=(), foreign=None):
    """What `builder.export` takes as `run`.

    Args:
      open_work: () -> (read, tokenizer, foreign), called once in each worker process:
        the same as here. It is pickled, so a partial of a function in an importable
        module.
      read, tokenizer, foreign: as `builder.export` is given them. A reader that cannot
        tell beforehand how many items it has is read by one worker.
      flags: Beam's pipeline options; none: one process per core of this machine.

    Raises:
      ValueError: an option that Beam does not know.
    """
    group = builder.group_of(tokenizer, foreign)
    return functools.partial(_run, open_work, read, group, options_of(flags))


def options_of(flags):
    """`PipelineOptions` of a list of flags; raises ValueError naming the unknown ones.

    Without a runner of another engine, the work goes to processes of this machine.
    """
    flags = ["--default_sdk_harness_log_level=ERROR", *flags]
    named = {flag.partition("=")[0] for flag in flags}
    here = not any(f.startswith("--runner=") and "Direct" not in f for f in flags)
    if here and "--direct_running_mode" not in named:
        flags += ["--runner=DirectRunner", "--direct_running_mode=multi_processing"]
        if "--direct_num_workers" not in named:
            flags.append(f"--direct_num_workers={os.cpu_count()}")
    options = PipelineOptions(flags, pickle_library="cloudpickle")
    known = options.get_all_options(drop_default=True)
    every = options.get_all_options(drop_default=True, retain_unknown_options=True)
    if unknown := sorted({*every} - {*known}):
        raise ValueError(
            f"--pipeline_options holds {unknown}, which Beam does not know; see "
            "apache_beam.options.pipeline_options"
        )
    return options


def _run(open_work, read, group, options, out, settings):
    """Every shard that is not yet there, and skipped.jsonl."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    count = spool.count_items(read)
    size = math.ceil(min((count or 1) / PARTS, LARGEST) / group) * group
    spans = [(0, None)]
    if count is not None:
        spans = [(k, min(k + size, count)) for k in range(0, count, size)]
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | beam.Create(spans)
                | beam.Reshuffle()
                | beam.ParDo(_Encode(open_work, str(out), group, settings))
                | "by clip" >> beam.GroupByKey()
                | beam.FlatMap(_first, str(out), settings)
                | "by shard" >> beam.GroupByKey()
                | beam.Map(_write, str(out), settings)
            )
    except Exception as error:  # each runner has exceptions of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()
        said = next((r for r in reversed(reason) if r.strip()), "")
        raise PipelineFailed(
            f"the Beam pipeline failed: {said[:400]}; what is done is kept, the same "
            "export again makes the rest"
        ) from error
    spool.write_skipped(out, parts.skipped(out))


class _Opened:
    """Reader and tokenizers of a worker process, whose threads take turns."""

    def __init__(self, open_work):
        self.read, self.tokenizer, self.foreign = open_work()
        self.lock = threading.Lock()


class _Encode(beam.DoFn):
    """A part of the corpus to (clip id, `parts.Place`), its records kept beside."""

    def __init__(self, open_work, out, group, settings):
        self.open_work, self.out = open_work, out
        self.group, self.settings = group, settings
        self.shared = shared.Shared()

    def setup(self):
        self.opened = self.shared.acquire(lambda: _Opened(self.open_work))

    def process(self, span):
        out, shards = pathlib.Path(self.out), self.settings["shards"]
        if not parts.is_done(out, span):
            with self.opened.lock:
                self._encode(out, shards, span)
        for place in parts.places(out, span):
            yield place.clip_id, place

    def _encode(self, out, shards, span):
        tokenizer, foreign = self.opened.tokenizer, self.opened.foreign
        kinds, skipped = builder.features_of(tokenizer, self.settings, foreign), []
        finished = parts.finished_shards(out, shards)
        every = spool.encoded(
            self.opened.read,
            lambda clips: builder.serialise_all(clips, tokenizer, kinds, foreign),
            lambda clip_id, split: (
                spool.shard_name(
                    split, spool.shard_of(clip_id, shards[split]), shards[split]
                )
                not in finished
            ),
            spool.skipper(skipped, self.settings["strict"]),
            group=self.group,
            augment=self.settings["augment"],
            seed=self.settings["seed"],
            part=span,
        )
        parts.write(out, span, every, skipped, finished, self.settings["strict"])


def _first(found, out, settings):
    """((split, shard), place) of the first clip of an id; the others are skipped."""
    clip_id, places = found
    places = sorted(places, key=lambda place: place.order)
    if len(places) > 1:
        lines = []
        on_skip = spool.skipper(lines, settings["strict"])
        for _ in places[1:]:
            on_skip(clip_id, spool.TWICE)
        parts.keep_lines(pathlib.Path(out), clip_id, lines)
    if places[0].size:
        count = settings["shards"][places[0].split]
        yield (places[0].split, spool.shard_of(clip_id, count)), places[0]


def _write(found, out, settings):
    """A shard of its records, wherever those lie."""
    (split, index), places = found
    out = pathlib.Path(out)
    final = spool.shard_path(out, split, index, settings["shards"])
    if not final.exists():
        records = parts.read(out, places)
        # A runner may try a step twice at once: each under a name of its own.
        builder.write_shard(final, records, parts.own_name(out, final.name))
