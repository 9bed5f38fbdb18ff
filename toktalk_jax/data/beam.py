"""An export's work spread over processes or machines by Apache Beam.

Each worker reads a part of the corpus and encodes its clips with the functions that one
process uses (`spool.encoded`, `builder.serialise_all`); Beam brings the records of a
shard together, and whoever gets them writes it. So the shards are those of an export
without Beam, byte for byte on like machines. Source and dataset directory must lie on a
file system that every worker sees.
"""

import functools
import logging
import math
import os
import pathlib
import threading
import uuid

from toktalk_jax.data import builder, schema, spool

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
HERE = ("--runner=DirectRunner", "--direct_running_mode=multi_processing")


class PipelineFailed(ValueError):
    """The pipeline ended with an error; the message holds the worker's."""


def runner(open_work, read, tokenizer, flags=(), foreign=None):
    """What `builder.export` takes as `run`.

    Args:
      open_work: () -> (read, tokenizer, foreign), called once in each worker process:
        the same as here. It is pickled, so a partial of a function in an importable
        module.
      read, tokenizer, foreign: as `builder.export` is given them.
      flags: Beam's pipeline options; none: one process per core of this machine.
    """
    flags = list(flags) or [*HERE, f"--direct_num_workers={os.cpu_count()}"]
    flags = ["--default_sdk_harness_log_level=ERROR", *flags]
    group = builder.group_of(tokenizer, foreign)
    return functools.partial(_run, open_work, read, group, flags)


def _run(open_work, read, group, flags, out, settings):
    """Every shard that is not yet there, and skipped.jsonl."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    options = PipelineOptions(flags, pickle_library="cloudpickle")
    count = spool.count_items(read)
    size = math.ceil(min((count or 1) / PARTS, LARGEST) / group) * group
    parts = [(0, None)]  # of a reader that cannot tell how many items there are
    if count is not None:
        parts = [(k, min(k + size, count)) for k in range(0, count, size)]
    encode = _Encode(open_work, str(out), group, settings)
    try:
        with beam.Pipeline(options=options) as pipeline:
            made = (
                pipeline
                | beam.Create(parts)
                | beam.Reshuffle()
                | beam.ParDo(encode).with_outputs("skipped", main="records")
            )
            _ = (
                made.records
                | beam.GroupByKey()
                | beam.ParDo(_Write(str(out), settings))
            )
            # The lines of all parts in one file, written by one worker.
            lines = made.skipped | beam.combiners.Count.PerElement()
            lines = lines | beam.Keys() | beam.combiners.ToList()
            _ = lines | beam.Map(functools.partial(_keep_lines, str(out)))
    except Exception as error:  # each runner has exceptions of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()
        said = next((r for r in reversed(reason) if r.strip()), "")
        raise PipelineFailed(
            f"the Beam pipeline failed: {said[:400]}; finished shards are kept, the "
            "same export again makes the others"
        ) from error
    lines = []
    for path in (out / spool.FOLDER).glob("*.skipped"):
        lines += path.read_text().splitlines(keepends=True)
    spool.write_skipped(out, lines)


class _Opened:
    """Reader and tokenizer of a worker process, whose threads take turns."""

    def __init__(self, open_work):
        self.read, self.tokenizer, self.foreign = open_work()
        self.lock = threading.Lock()


class _Encode(beam.DoFn):
    """A part of the corpus to ((split, shard), (position, clip id, record))."""

    def __init__(self, open_work, out, group, settings):
        self.open_work, self.out = open_work, out
        self.group, self.settings = group, settings
        self.shared = shared.Shared()

    def setup(self):
        self.opened = self.shared.acquire(lambda: _Opened(self.open_work))

    def process(self, part):
        with self.opened.lock:
            yield from self._encode(part)

    def _encode(self, part):
        out, shards = pathlib.Path(self.out), self.settings["shards"]
        tokenizer, foreign = self.opened.tokenizer, self.opened.foreign
        kinds, skipped = builder.features_of(tokenizer, self.settings, foreign), []

        def wanted(clip_id, split):
            index = spool.shard_of(clip_id, shards[split])
            return not spool.shard_path(out, split, index, shards).exists()

        every = spool.encoded(
            self.opened.read,
            lambda clips: builder.serialise_all(clips, tokenizer, kinds, foreign),
            wanted,
            spool.skipper(skipped, self.settings["strict"]),
            group=self.group,
            augment=self.settings["augment"],
            seed=self.settings["seed"],
            part=part,
        )
        for k, (clip_id, split, record) in enumerate(every):
            if record is None:
                continue
            if isinstance(record, schema.BadClip):
                record = str(record)
            key = split, spool.shard_of(clip_id, shards[split])
            yield key, ((part[0], k), clip_id, record)
        for line in skipped:
            yield beam.pvalue.TaggedOutput("skipped", line)


class _Write(beam.DoFn):
    """The records of a shard to its file; before it, what of them is skipped."""

    def __init__(self, out, settings):
        self.out, self.settings = out, settings

    def process(self, item):
        (split, index), found = item
        out, shards = pathlib.Path(self.out), self.settings["shards"]
        records, seen, skipped = {}, set(), []
        on_skip = spool.skipper(skipped, self.settings["strict"])
        for _, clip_id, record in sorted(found, key=lambda made: made[0]):
            if clip_id in seen:
                on_skip(clip_id, spool.TWICE)
            elif isinstance(record, str):
                on_skip(clip_id, record)
            else:
                records[clip_id] = record
            seen.add(clip_id)
        # A runner may try a step twice at once: each under a name of its own.
        place = out / spool.FOLDER
        spool.write_text(place / f"{split}-{index:05d}.skipped", "".join(skipped))
        final = spool.shard_path(out, split, index, shards)
        builder.write_shard(final, records, place / f"{final.name}.{uuid.uuid4().hex}")


def _keep_lines(out, lines):
    spool.write_text(pathlib.Path(out) / spool.FOLDER / "read.skipped", "".join(lines))
