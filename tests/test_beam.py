"""Export under Apache Beam: the shards of an export without it, whatever happens."""

import functools
import json
import sys

import pytest

from tests import test_corpora, tiny_corpus
from tests.test_export import Batching
from toktalk_jax.data import builder, schema, spool
from tools import export_tokens

CLIPS = 40
IN_PROCESS = ("--runner=DirectRunner", "--direct_running_mode=in_memory")


def twice(on_skip, each=iter):
    """`tiny_corpus.read`, and clips at its end whose ids came before."""
    yield from tiny_corpus.read(CLIPS)(on_skip, each)
    for k in each([7, 11, 12]):  # the first of them is the one that cannot be used
        clip = tiny_corpus.clip(k)
        clip.split = "test" if k == 12 else clip.split  # it was a train clip's id
        yield clip


def open_work(kind):
    """(read, tokenizer, foreign), as a worker opens them."""
    if kind == "paired":
        return twice, tiny_corpus.tokenizer(), Batching()
    return twice, Batching() if kind == "batching" else tiny_corpus.tokenizer(), None


def export(out, kind="plain", beam=None, **options):
    settings = {"about": tiny_corpus.ABOUT, "shards": tiny_corpus.SHARDS, "augment": 1}
    read, tokenizer, foreign = open_work(kind)
    run = beam and beam.runner(
        functools.partial(open_work, kind), read, tokenizer, IN_PROCESS, foreign
    )
    settings |= {"run": run, "foreign": foreign, **options}
    return builder.export(read, out, tokenizer, **settings)


@pytest.fixture(scope="module")
def beam():
    pytest.importorskip("apache_beam")
    from toktalk_jax.data import beam

    return beam


@pytest.mark.parametrize("kind", ["plain", "batching", "paired"])
def test_same_shards_as_one_process(beam, tmp_path, kind):
    """Also with a tokenizer whose tokens show who shared their batch."""
    local = export(tmp_path / "local", kind)
    assert export(tmp_path / "beam", kind, beam) == local
    found = tiny_corpus.contents(tmp_path / "beam")
    assert found == tiny_corpus.contents(tmp_path / "local")
    lines = [json.loads(s) for s in found["skipped.jsonl"].splitlines()]
    reasons = {line["clip"]: line["reason"] for line in lines}
    assert reasons["clip011"] == reasons["clip012"] == spool.TWICE
    assert "clip004b" in reasons


@pytest.mark.parametrize("kind", ["plain", "batching"])
def test_a_failed_pipeline_goes_on(beam, tmp_path, monkeypatch, kind):
    """Finished shards stay, either runner goes on, and nothing skipped is lost."""
    write, left = builder.write_shard, [3]

    def three_then_stop(*args):
        if not left[0]:
            raise OSError("the rack caught fire")
        left[0] -= 1
        write(*args)

    monkeypatch.setattr(builder, "write_shard", three_then_stop)
    for name in ("here", "there"):
        left[0] = 3
        with pytest.raises(beam.PipelineFailed, match="caught fire.*same export"):
            export(tmp_path / name, kind, beam)
    monkeypatch.setattr(builder, "write_shard", write)
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*.tfrecord-*")}
    assert len(done) == 6 and not [*tmp_path.glob("*/metadata.json")]
    whole = export(tmp_path / "whole", kind)
    assert export(tmp_path / "here", kind) == whole
    assert export(tmp_path / "there", kind, beam) == whole
    assert done == {p: p.stat().st_mtime_ns for p in done}
    wanted = tiny_corpus.contents(tmp_path / "whole")
    for name in ("here", "there"):
        assert tiny_corpus.contents(tmp_path / name) == wanted
        assert not (tmp_path / name / spool.FOLDER).exists()


def test_encoded_parts_are_not_encoded_again(beam, tmp_path, monkeypatch):
    """Stopped before any shard: what was encoded is read, not made anew."""
    serialise, calls, left = builder.serialise_all, [], [30]

    def counted(clips, *rest):
        if not left[0]:
            raise OSError("the power went")
        left[0] -= 1
        calls.extend(clip.clip_id for clip in clips)
        return serialise(clips, *rest)

    monkeypatch.setattr(builder, "serialise_all", counted)
    out = tmp_path / "out"
    with pytest.raises(beam.PipelineFailed, match="the power went"):
        export(out, beam=beam)
    assert not [*out.glob("*.tfrecord*")] and not [*out.glob("spool/*.tmp")]
    first, left[0] = len(calls), 1000
    whole = export(out, beam=beam)
    assert len(calls) - first < len(calls) / 2
    assert whole == export(tmp_path / "whole")
    assert tiny_corpus.contents(out) == tiny_corpus.contents(tmp_path / "whole")


def test_a_shard_that_went_since_is_made_again(beam, tmp_path, monkeypatch):
    """A part that left out a finished shard's clips is no good without that shard."""
    out, write = tmp_path / "out", builder.write_shard
    whole = export(tmp_path / "whole", beam=beam)
    export(out, beam=beam)
    for name in ("train.tfrecord-00001-of-00003", "test.tfrecord-00000-of-00002"):
        (out / f"toktalk-{name}").unlink()

    def broken(*args):
        raise OSError("no")

    monkeypatch.setattr(builder, "write_shard", broken)
    with pytest.raises(beam.PipelineFailed):
        export(out, beam=beam)
    (out / "toktalk-train.tfrecord-00002-of-00003").unlink()
    monkeypatch.setattr(builder, "write_shard", write)
    assert export(out, beam=beam) == whole
    assert tiny_corpus.contents(out) == tiny_corpus.contents(tmp_path / "whole")


def test_options_that_beam_does_not_know_are_refused(beam):
    with pytest.raises(ValueError, match=r"holds \['runer'\]"):
        beam.options_of(["--runer=FlinkRunner"])
    for flags in ([], ["--direct_num_workers=3"], ["--runner=DirectRunner"]):
        found = beam.options_of(flags).get_all_options()
        assert found["direct_running_mode"] == "multi_processing"
        assert found["direct_num_workers"] >= 1
    assert (
        beam.options_of(["--direct_num_workers=3"]).get_all_options()[
            "direct_num_workers"
        ]
        == 3
    )
    flink = beam.options_of(["--runner=FlinkRunner", "--flink_master=a:1"])
    assert flink.get_all_options()["flink_master"] == "a:1"


def test_strict_stops_at_a_bad_clip(beam, tmp_path):
    with pytest.raises(beam.PipelineFailed, match="clip004b: the tracker lost"):
        export(tmp_path / "out", beam=beam, strict=True)


@pytest.mark.parametrize(("group", "size"), [(1, 5), (4, 8), (8, 16)])
def test_parts_are_the_whole(group, size):
    def made(part):
        skipped = []
        found = spool.encoded(
            twice,
            lambda clips: [f"{c.clip_id} of {len(clips)}".encode() for c in clips],
            lambda clip_id, split: True,
            spool.skipper(skipped, strict=False),
            group=group,
            augment=1,
            seed=0,
            part=part,
        )
        return [*found], skipped

    count = spool.count_items(twice)
    assert count == CLIPS + 3
    whole, skipped = made((0, None))
    parts = [made((k, k + size)) for k in range(0, count, size)]
    key = lambda made: (made[0], str(made[2]))  # noqa: E731
    assert [*map(key, sum((p[0] for p in parts), []))] == [*map(key, whole)]
    assert sum((p[1] for p in parts), []) == skipped


def test_a_reader_that_takes_no_part_is_refused():
    with pytest.raises(ValueError, match="does not read what each"):
        spool.count_items(lambda on_skip, each: [tiny_corpus.clip(0)])


def test_count_of_a_stream_is_unknown():
    endless = lambda on_skip, each: each(iter([tiny_corpus.clip(0)]))  # noqa: E731
    assert spool.count_items(endless) is None
    with pytest.raises(schema.BadClip, match="a: no"):
        spool.skipper([], strict=True)("a", "no")


def test_without_beam_the_extra_is_named(tmp_path, monkeypatch):
    pytest.importorskip("hibari")
    import toktalk_jax.data

    monkeypatch.delitem(sys.modules, "toktalk_jax.data.beam", raising=False)
    monkeypatch.delattr(toktalk_jax.data, "beam", raising=False)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    args = ["--corpus", "performer", "--tokenizer", "mel_rvq", "--runner", "beam"]
    with pytest.raises(SystemExit, match=r"\[beam\] extra"):
        export_tokens.main([*args, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shards", "8,2"], "--shards is '8,2'; expected how many"),
        (["--runner", "beam", "--fit_cache", "x"], "--fit_cache does not go with"),
    ],
)
def test_command_line_refuses(beam, tmp_path, extra, message):
    pytest.importorskip("hibari")
    args = ["--corpus", "performer", "--tokenizer", "mel_rvq", "--out"]
    with pytest.raises(SystemExit, match=message):
        export_tokens.main([*args, str(tmp_path / "out"), *extra])


@pytest.mark.long
def test_command_line_in_several_processes(beam, tmp_path):
    """The default of --runner beam: a process per core, each opening its own."""
    test_corpora.make_ravdess(tmp_path / "ravdess")
    args = ["--corpus", "ravdess", "--source", str(tmp_path / "ravdess")]
    args += ["--head", "stand_in", "--tokenizer", "mel_rvq", "--augment", "1"]
    export_tokens.main([*args, "--out", str(tmp_path / "local")])
    export_tokens.main([*args, "--out", str(tmp_path / "beam"), "--runner", "beam"])
    found = tiny_corpus.contents(tmp_path / "beam")
    assert found == tiny_corpus.contents(tmp_path / "local")
