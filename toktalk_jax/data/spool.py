"""An export's first stage: every clip tokenised once, whatever interrupts it.

Records are appended to one spool file per shard, in the reader's order. A kill tears at
most the last record of each file; the next run cuts it off and goes on from there.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import struct
import zlib

from toktalk_jax.data import augment as augmentation
from toktalk_jax.data import schema

NAME = "toktalk"
SPLITS = ("train", "validation", "test")
FOLDER = "spool"
_PLAN = "plan.json"
_COMPLETE = "complete"  # every clip was read
_HEADER = struct.Struct("<IIH")  # crc32, bytes of the record, bytes of the clip id


def shard_of(clip_id, count):
    """Shard of a clip: by hash of its id, whatever the order of reading."""
    digest = hashlib.sha256(clip_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


def shard_name(split, index, count):
    """TFDS's own file name of a shard."""
    return f"{NAME}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def path_of(out, split, index):
    """Spool file of a shard."""
    return out / FOLDER / f"{split}-{index:05d}.spool"


def write_text(path, text):
    """Write under a temporary name, then rename: never half a file."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def begin(out, plan):
    """Begin an export or resume one.

    Args:
      plan: everything that decides the bytes; JSON values only.

    Returns:
      The metadata of an export that is already complete, else None.

    Raises:
      ValueError: `out` holds an export with another plan; names what differs.
    """
    metadata, kept = out / "metadata.json", out / FOLDER / _PLAN
    if metadata.exists():
        old = json.loads(metadata.read_text())
        _refuse_other(out, old, plan)
        # A kill may have left it behind, marked as complete.
        shutil.rmtree(out / FOLDER, ignore_errors=True)
        if all((out / name).exists() for name in old["shard_clips"]):
            return old
    elif kept.exists():
        _refuse_other(out, json.loads(kept.read_text()), plan)
    elif out.exists() and any(out.glob(f"{NAME}-*.tfrecord-*")):
        raise ValueError(
            f"{out} holds shards but neither metadata.json nor an unfinished export; "
            "use another --out"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(plan, indent=1))
    metadata.unlink(missing_ok=True)  # a shard was removed: only that is made again
    return None


def _refuse_other(out, old, plan):
    changed = [key for key in plan if old.get(key) != plan[key]]
    if changed:
        pairs = (f"{k} {old.get(k)!r}, now {plan[k]!r}" for k in changed)
        raise ValueError(
            f"{out} holds an export made with {'; '.join(pairs)}; repeat its settings "
            "to finish it, or use another --out"
        )


def fill(read, out, encode, *, shards, augment, seed, strict, group=1):
    """Append every clip that is not yet done to the spools, then skipped.jsonl.

    Args:
      read: on_skip -> iterable of `schema.RawClip`, in the same order every time.
      encode: list of RawClip -> for each its record bytes, or the BadClip it is.
      shards: shards per split.
      augment, seed: copies of each train clip, by `augment.augment`.
      strict: raise on the first clip that cannot be used.
      group: clips given to `encode` together. Who shares a group depends on the
        reader's order alone, and a group with anything missing is encoded whole, so
        that bytes do not depend on interruptions.

    Raises:
      schema.BadClip: with `strict`.
    """
    if (out / FOLDER / _COMPLETE).exists():
        return
    skipped, before = [], _skipped_before(out)

    def on_skip(clip_id, reason):
        if strict:
            raise schema.BadClip(f"{clip_id}: {reason}")
        skipped.append(json.dumps({"clip": clip_id, "reason": str(reason)}) + "\n")

    done = set()
    for path in sorted((out / FOLDER).glob("*.spool")):
        _cut_torn_tail(path)
        done.update(clip_id for clip_id, _ in read_spool(path))
    with contextlib.ExitStack() as stack:
        files = {}
        every = _once(jobs(read, augment, seed, on_skip), on_skip)
        while members := list(itertools.islice(every, group)):
            missing = {}
            for clip_id, split, _ in members:
                index = shard_of(clip_id, shards[split])
                if (out / shard_name(split, index, shards[split])).exists():
                    skipped += before.get(clip_id, [])  # not tried again
                elif clip_id not in done:
                    missing[clip_id] = path_of(out, split, index)
            if not missing:
                continue
            for clip_id, record in _encoded(members, encode):
                if clip_id not in missing:
                    continue
                if isinstance(record, schema.BadClip):
                    on_skip(clip_id, str(record))
                    continue
                path = missing[clip_id]
                if path not in files:
                    files[path] = stack.enter_context(open(path, "ab"))
                _append(files[path], clip_id, record)
    write_text(out / "skipped.jsonl", "".join(dict.fromkeys(skipped)))
    write_text(out / FOLDER / _COMPLETE, "")


def _once(members, on_skip):
    """The jobs, each clip id once."""
    seen = set()
    for member in members:
        if member[0] in seen:
            on_skip(member[0], "another clip has the same clip_id")
            continue
        seen.add(member[0])
        yield member


def _encoded(members, encode):
    """(clip id, record bytes or BadClip) of a group of jobs, in their order."""
    made = {}
    for clip_id, _, make in members:
        try:
            made[clip_id] = make()
        except schema.BadClip as error:
            made[clip_id] = error
    clips = [clip for clip in made.values() if not isinstance(clip, schema.BadClip)]
    records = iter(encode(clips))
    for clip_id, clip in made.items():
        yield clip_id, clip if isinstance(clip, schema.BadClip) else next(records)


def _skipped_before(out):
    """{clip id: [its line]} of the skipped.jsonl of an earlier export here."""
    path = out / "skipped.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {json.loads(line)["clip"]: [line] for line in lines}


def jobs(read, copies, seed, on_skip):
    """What an export holds: each checked clip, a train clip's copies after it.

    Yields:
      (clip_id, split, make); make() -> RawClip does the work, and may raise BadClip.
    """
    for clip in read(on_skip):
        try:
            checked = schema.check_clip(clip)
            if clip.split not in SPLITS:
                raise schema.BadClip(f"split is {clip.split!r}, not one of {SPLITS}")
            if augmentation.SEPARATOR in clip.clip_id:
                raise schema.BadClip("its clip_id holds '~', which marks copies")
        except schema.BadClip as error:
            on_skip(clip.clip_id, str(error))
            continue
        yield clip.clip_id, clip.split, lambda clip=checked: clip
        for k in range(1, 1 + (copies if clip.split == "train" else 0)):
            name = f"{clip.clip_id}{augmentation.SEPARATOR}{k}"
            yield name, clip.split, _copy_maker(checked, seed, k)


def _copy_maker(clip, seed, k):
    # Made only when wanted: a resumed export skips the work, not just the writing.
    return lambda: schema.check_clip(augmentation.augment(clip, seed, k))


def _append(file, clip_id, record):
    name = clip_id.encode()
    body = name + record
    file.write(_HEADER.pack(zlib.crc32(body), len(record), len(name)) + body)
    file.flush()  # what was handed to the system outlives the process


def read_spool(path):
    """(clip_id, record bytes) of a spool, up to the first that is not whole."""
    for _, clip_id, record in _scan(path):
        yield clip_id, record


def _cut_torn_tail(path):
    good = 0
    for end, _, _ in _scan(path):
        good = end
    if good < path.stat().st_size:
        os.truncate(path, good)


def _scan(path):
    with open(path, "rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            crc, size, name_size = _HEADER.unpack(header)
            body = file.read(name_size + size)
            if len(body) < name_size + size or zlib.crc32(body) != crc:
                return
            yield file.tell(), body[:name_size].decode(), body[name_size:]
