"""Parts of an export that many workers make: records on disk, and where they lie.

A part is the span of items that one worker encoded. `part-START-STOP.bin` holds its
records one after the other; `part-START-STOP.json`, renamed into place last, says what
they are, so that a part is there whole or not at all.
"""

import hashlib
import json
import os
import pathlib
import uuid
from typing import NamedTuple

from toktalk_jax.data import schema, spool


class Place(NamedTuple):
    """Where a clip's record lies.

    Attributes:
      order: (first item of the part, number within it): the reader's order.
      part: name of the part; offset, size: bytes; size 0 is a clip that was refused.
    """

    clip_id: str
    split: str
    order: tuple
    part: str
    offset: int
    size: int


def own_name(out, name):
    """A path for writing `name` beside others who may be writing it too."""
    return pathlib.Path(out) / spool.FOLDER / f"{name}.{uuid.uuid4().hex}.tmp"


def finished_shards(out, shards):
    """Names of the shards that are there."""
    names = (
        spool.shard_name(split, k, count)
        for split, count in shards.items()
        for k in range(count)
    )
    return {name for name in names if (out / name).exists()}


def write(out, span, every, skipped, finished, strict):
    """Keep what `spool.encoded` gives of a part.

    Args:
      every: `spool.encoded`; skipped: lines that its reading appends to.
      finished: names of the shards whose clips were left out.
      strict: a clip that was refused is an error.

    Raises:
      schema.BadClip: with `strict`.
    """
    name, places, offset = _name(span), [], 0
    on_skip = spool.skipper(skipped, strict)
    binary = own_name(out, name)
    try:
        with open(binary, "wb") as file:
            for k, (clip_id, split, record) in enumerate(every):
                size = 0
                if isinstance(record, schema.BadClip):
                    on_skip(clip_id, record)
                elif record is not None:
                    size = file.write(record)
                else:
                    size = -1  # in a finished shard: it still comes before a twin
                places.append((clip_id, split, (span[0], k), name, offset, size))
                offset += max(size, 0)
        os.replace(binary, out / spool.FOLDER / f"{name}.bin")
    finally:
        binary.unlink(missing_ok=True)
    index = {"places": places, "skipped": skipped, "without": sorted(finished)}
    _replace(out, f"{name}.json", json.dumps(index))


def is_done(out, span):
    """Whether a part is kept, and lacks no clip of a shard that is gone since."""
    path = out / spool.FOLDER / f"{_name(span)}.json"
    if not path.exists():
        return False
    without = json.loads(path.read_text())["without"]
    return all((out / name).exists() for name in without)


def places(out, span):
    """Every `Place` of a part."""
    path = out / spool.FOLDER / f"{_name(span)}.json"
    for clip_id, split, order, *rest in json.loads(path.read_text())["places"]:
        yield Place(clip_id, split, tuple(order), *rest)


def read(out, places):
    """{clip id: record bytes} of places, which may lie in many parts."""
    records = {}
    for place in sorted(places, key=lambda place: (place.part, place.offset)):
        if place.size > 0:
            with open(out / spool.FOLDER / f"{place.part}.bin", "rb") as file:
                file.seek(place.offset)
                records[place.clip_id] = file.read(place.size)
    return records


def keep_lines(out, clip_id, lines):
    """Keep lines of skipped.jsonl that no part knows."""
    digest = hashlib.sha256(clip_id.encode()).hexdigest()[:16]
    _replace(out, f"twice-{digest}.json", json.dumps({"skipped": lines}))


def skipped(out):
    """Lines of skipped.jsonl of every part, whoever made it."""
    lines = []
    for pattern in ("part-*.json", "twice-*.json"):
        for path in sorted((out / spool.FOLDER).glob(pattern)):
            lines += json.loads(path.read_text())["skipped"]
    return lines


def _name(span):
    start, stop = span
    return f"part-{start:09d}-{'end' if stop is None else f'{stop:09d}'}"


def _replace(out, name, text):
    temporary = own_name(out, name)
    try:
        temporary.write_text(text)
        os.replace(temporary, out / spool.FOLDER / name)
    finally:
        temporary.unlink(missing_ok=True)
