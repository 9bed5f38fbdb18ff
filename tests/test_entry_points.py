"""train, sample and evaluate from end to end on a dataset of seconds."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import soundfile

from configs import small
from tests import tiny_corpus
from tests.conftest import ROOT
from toktalk_jax import evaluate, inputs, sample, train
from toktalk_jax.flame import assets, landmarks, model
from toktalk_jax.page import read_page
from toktalk_jax.training import checkpoints
from tools import read_profile


def smoke(dataset):
    config = small.get_config("smoke")
    config.dataset = str(dataset)
    return config


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    time = np.arange(int(44_100 * 1.3)) / 44_100
    wave = 0.3 * np.sin(2 * np.pi * 220 * time) * (np.sin(9 * time) > 0)
    soundfile.write(path, np.stack([wave, wave], 1), 44_100)
    return path


def run_sample(checkpoint, out, **inputs):
    return sample.sample(checkpoint, out, **{"style": "none", **inputs})


def test_training_writes_what_a_model_needs(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    assert {"config.json", "stats.json", "metrics.jsonl", "bundle"} <= names
    rows = [json.loads(x) for x in (tiny_run / "metrics.jsonl").open()]
    trained = [r for r in rows if "loss" in r]
    assert [r["step"] for r in trained] == [2, 4, 6]
    assert all(np.isfinite(list(r.values())).all() for r in rows)
    assert 0 < trained[-1]["mfu"] < 1 and trained[-1]["frames_per_s"] > 0
    scored = [r for r in rows if "validation_loss" in r]
    assert [r["step"] for r in scored] == [3, 6]
    assert all(r["validation_lve_mm"] > 0 for r in scored)
    best = json.loads((tiny_run / "best/meta.json").read_text())["step"]
    assert best == min(scored, key=lambda r: r["validation_loss"])["step"]
    shown = {path.name for path in (tiny_run / "validation/step_6").iterdir()}
    assert shown == {"mouth.png", "watch.html"}
    run, bundle = checkpoints.load(tiny_run), checkpoints.load(tiny_run / "bundle")
    assert run.meta["hash"] == bundle.meta["hash"]
    assert bundle.tokenizer_state.is_file()


def test_an_interrupted_training_resumes_bitwise(
    tiny_dataset, tiny_run, tmp_path, monkeypatch
):
    """Stopped in its fifth step, after the checkpoint of the third."""
    batches = train.make_batches

    def interrupted(*arguments, **options):
        yield from itertools.islice(batches(*arguments, **options), 4)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "make_batches", interrupted)
        train.train(smoke(tiny_dataset), tmp_path)
    assert checkpoints.load(tmp_path).meta["step"] == 3
    train.train(smoke(tiny_dataset), tmp_path)
    resumed, whole = (checkpoints.load(run) for run in (tmp_path, tiny_run))
    assert resumed.meta["hash"] == whole.meta["hash"]
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [r["step"] for r in rows if "loss" in r] == [2, 4, 6]


def test_one_batch_is_learnt_by_heart_and_its_profile_reads(
    tiny_dataset, tmp_path, monkeypatch
):
    config, json_file = smoke(tiny_dataset), tmp_path / "profile.json"
    config.total_steps, config.log_every, config.save_every = 24, 4, 24
    config.validation.clips, config.keep.best = 0, 0
    batches = train.make_batches
    with monkeypatch.context() as patch:  # there is one batch, and no second
        first = lambda *a, **k: itertools.islice(batches(*a, **k), 1)  # noqa: E731
        patch.setattr(train, "make_batches", first)
        train.train(config, tmp_path / "run", profile="4:8", one_batch=True)
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").open()]
    losses = [r["loss"] for r in rows]
    assert np.mean(losses[-2:]) < 0.95 * losses[0]
    with pytest.raises(ValueError, match="one_batch was True"):
        train.train(config, tmp_path / "run")

    read_profile.main([str(tmp_path / "run"), "--json", str(json_file)])
    found = json.loads(json_file.read_text())
    assert found["steps"] == 4
    assert found["compute"] + found["input"] + found["idle"] == pytest.approx(1)
    scopes = {row["scope"] for row in found["scopes"]}
    assert {"loss", "optimiser"} < scopes
    assert any("VelocityField" in s for s in scopes) and found["operations"]


def test_sampling_a_wav_writes_motion_report_and_page(tiny_run, wav, tmp_path):
    report = run_sample(tiny_run, tmp_path, wav=str(wav))
    with np.load(tmp_path / "motion.npz") as file:
        motion, audio = file["motion"], file["audio"]
        assert int(file["fps"]) == 25 and str(file["head_joint"]) == "neck"
    assert motion.shape == (-(-len(audio) // 640), 56) and np.isfinite(motion).all()
    assert report["timing"]["chunks"] >= 3
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 0
    assert "real_time_factor" in (tmp_path / "report.md").read_text()
    page = read_page(tmp_path / "watch.html")
    assert len(page["arrays"]["motion_0"]) == len(motion)


def test_a_face_of_another_head_is_not_shown_on_ours(tiny_run, wav, tmp_path):
    """Motion is written, no page; a wrong head is refused, and scores are refused."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run / "bundle", run)
    facts = json.loads((run / "dataset.json").read_text())
    facts["face_model"] = "flame2020"
    (run / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="style 'neutral' is of the stand-in"):
        run_sample(run, tmp_path / "out", wav=str(wav), style="neutral")
    report = run_sample(run, tmp_path / "out", wav=str(wav))
    assert "flame2020; give --head" in report["watch"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"motion.npz", "report.json", "report.md"}
    stand_in = assets.__file__.replace("assets.py", "data/stand_in_head.npz")
    with pytest.raises(ValueError, match="'stand_in_head'"):
        run_sample(run, tmp_path / "out", wav=str(wav), head=stand_in)


def test_a_sound_shorter_than_a_chunk_is_timed_and_written(tiny_run, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, 0.1 * np.ones(int(0.3 * 16_000)), 16_000)
    report = run_sample(tiny_run, tmp_path / "out", wav=str(path))
    assert report["timing"]["chunks"] == 1 and report["timing"]["chunk_ms_p50"] > 0
    with np.load(tmp_path / "out/motion.npz") as file:
        assert file["motion"].shape == (8, 56)


def test_a_wav_equals_its_own_tokens(tiny_run, wav, tmp_path):
    """The streamed tokenizer and a token file lead to the same frames."""
    from toktalk_jax.data.audio import read_audio
    from toktalk_jax.tokenizers.mel_rvq import MelRVQ

    tokenizer = MelRVQ.load(tiny_run / "tokenizer_state.npz")
    tokens = tokenizer.embed(read_audio(wav))
    np.savez(tmp_path / "t.npz", tokens=tokens, rate_hz=12.5, tokenizer="mel_rvq")
    run_sample(tiny_run, tmp_path / "a", wav=str(wav))
    run_sample(tiny_run, tmp_path / "b", tokens=str(tmp_path / "t.npz"))
    a, b = (np.load(tmp_path / x / "motion.npz")["motion"] for x in "ab")
    np.testing.assert_array_equal(a, b[: len(a)])


def test_a_style_file_changes_the_motion(tiny_run, wav, tmp_path):
    rng = np.random.default_rng(0)
    style = rng.normal(size=(30, 56)).astype("f4")
    np.savez(tmp_path / "style.npz", motion=style)
    run_sample(tiny_run, tmp_path / "a", wav=str(wav))
    run_sample(
        tiny_run, tmp_path / "b", wav=str(wav), style=str(tmp_path / "style.npz")
    )
    a, b = (np.load(tmp_path / x / "motion.npz")["motion"] for x in "ab")
    assert np.abs(a - b).max() > 1e-4


def bad_tokens(path, **arrays):
    np.savez(path, **arrays)
    return {"tokens": str(path)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(tokens=np.zeros((9, 7), "f4"), rate_hz=12.5), "7 wide.*takes 512"),
        (dict(tokens=np.zeros((9, 512), "i4"), rate_hz=12.5), "int32"),
        (dict(tokens=np.zeros((9, 512), "f4")), "no 'rate_hz'"),
        (
            dict(tokens=np.zeros((9, 512), "f4"), rate_hz=12.5, tokenizer="mimi"),
            "holds mimi tokens.*trained on mel_rvq",
        ),
        (dict(tokens=np.full((9, 512), np.nan, "f4"), rate_hz=12.5), "NaN"),
        (dict(tokens=np.zeros((0, 512), "f4"), rate_hz=12.5), "at least one token"),
        (dict(tokens=np.zeros((9, 512), "f4"), rate_hz=[12.5, 1]), "one number"),
        (
            dict(tokens=np.zeros((9, 512), "f4"), rate_hz=12.5, audio=np.ones(9, "f4")),
            "audio is float32",
        ),
    ],
    ids=["width", "dtype", "rate", "tokenizer", "nan", "none", "rates", "audio"],
)
def test_bad_token_files_say_what_came_and_what_fits(
    tiny_run, tmp_path, arrays, message
):
    with pytest.raises(ValueError, match=message):
        run_sample(
            tiny_run, tmp_path / "out", **bad_tokens(tmp_path / "t.npz", **arrays)
        )


def test_bad_inputs_of_sample(tiny_run, wav, tmp_path):
    with pytest.raises(ValueError, match="exactly one of"):
        run_sample(tiny_run, tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        run_sample(tmp_path / "nowhere", tmp_path, wav=str(wav))
    with pytest.raises(FileNotFoundError, match="no sound file"):
        run_sample(tiny_run, tmp_path, wav=str(tmp_path / "x.wav"))
    (tmp_path / "s.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a whole .npz"):
        run_sample(tiny_run, tmp_path, wav=str(wav), style=str(tmp_path / "s.npz"))
    np.savez(tmp_path / "s.npz", motion=np.zeros((30, 56), "f4"))
    (tmp_path / "s.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a whole .npz"):
        run_sample(tiny_run, tmp_path, wav=str(wav), style=str(tmp_path / "s.npz"))
    np.savez(tmp_path / "short.npz", motion=np.zeros((5, 56), "f4"))
    with pytest.raises(ValueError, match="at least 10"):
        run_sample(tiny_run, tmp_path, wav=str(wav), style=str(tmp_path / "short.npz"))


def test_evaluation_scores_every_row(tiny_dataset, tiny_run, tmp_path):
    rows = evaluate.evaluate(
        smoke(tiny_dataset),
        tiny_run,
        rows=("stream", "mean", "whole", "static", "ridge", "truth"),
        samples=3,
    )
    assert [r.name for r in rows] == [
        *("flow stream", "mean of 3", "flow whole", "static", "ridge", "truth")
    ]
    for row in rows:
        assert len(row.scores) == 3 and not row.skipped
        assert (row.values["lve_mm"].value > 0) == (row.name != "truth")
        trained = row.name not in ("static", "ridge", "truth")
        made = f"ema at step 6, {checkpoints.load(tiny_run).meta['hash']}"
        assert row.weights == (made if trained else "none")
        assert "tracked_lip_mm" not in row.values
        # The dataset holds loudness (tones that swell), and no phonemes.
        assert {"head_speed_w1", "head_beat", "brow_fdd"} <= row.values.keys()
        for score in row.scores.values():
            assert score["skipped"]["closure"] == "no phonemes are known"
    stream = rows[0].values
    assert stream["boundary_excess_whole"].value > 0
    static = rows[3].values
    assert static["std_ratio"].value in (None, 0) or static["std_ratio"].value < 1e-3


def test_tracked_lips_are_scored_where_they_are(tiny_dataset, tiny_run, tmp_path):
    """The dataset's own motion is on its lips here, but for a shift of 1 mm."""
    from toktalk_jax.data import builder
    from toktalk_jax.tokenizers.mel_rvq import MelRVQ

    head = assets.load_head()
    where = landmarks.load_map(head)

    def read(on_skip, each):
        for k in each(range(10)):
            clip = tiny_corpus.clip(k, 30)
            clip.motion[:, :48] = np.abs(clip.motion[:, :48]) % 1
            vertices = model.vertices(head, clip.motion, pose=False)
            points = np.asarray(landmarks.surface_points(head, where, vertices))
            clip.lips = points[:, list(landmarks.LIPS)] + (0, 0, 1e-3)
            if k == 4:  # a test clip that no tracker saw
                clip.lips = None
            yield clip

    tokenizer = MelRVQ.load(tiny_dataset / "tokenizer_state.npz")
    builder.export(
        read, tmp_path / "d", tokenizer, about=tiny_corpus.ABOUT, with_landmarks=True
    )
    rows = evaluate.evaluate(
        smoke(tmp_path / "d"), tiny_run, rows=("static", "truth"), samples=1
    )
    static, truth = (row.values for row in rows)
    assert truth["tracked_lip_mm"].clips == 1 and truth["lve_mm"].clips == 2
    np.testing.assert_allclose(truth["tracked_lip_mm"].value, 1.0, rtol=1e-3)
    assert static["tracked_lip_mm"].value > 1.5
    assert truth["tracked_gap_r"].value > 0.9999


def test_a_row_is_what_was_scored_by_what(tiny_dataset, tiny_run, monkeypatch):
    """Another split, fewer clips or more samples never overwrite a kept row."""
    config, rows = smoke(tiny_dataset), ("stream", "static")
    score = lambda **other: [  # noqa: E731
        row.hash()
        for row in evaluate.evaluate(
            config, tiny_run, rows=rows, **{"samples": 1, **other}
        )
    ]
    base = score()
    assert score() == base
    for other in ({"split": "validation"}, {"limit": 1}):
        assert not {*score(**other)} & {*base}
    more = score(samples=2)
    assert more[0] != base[0] and more[1] == base[1]  # a mean face has no samples


def test_foreign_codebooks_and_repeated_clips_are_refused(
    tiny_dataset, tiny_run, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(tiny_dataset, other)
    facts = json.loads((other / "metadata.json").read_text())
    facts["tokenizer_hash"] = "another"
    (other / "metadata.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="tokenizer_hash 'another'"):
        evaluate.evaluate(smoke(other), tiny_run, rows=("static",))
    with pytest.raises(ValueError, match="come twice"):
        twice = smoke(f"{tiny_dataset},{tiny_dataset}")
        evaluate.evaluate(twice, tiny_run, rows=("static",))


def test_a_folder_named_like_a_shipped_checkpoint_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert checkpoints.load("small").dataset["tokenizer"] == "mel_rvq"


def test_scores_do_not_depend_on_batching_or_on_the_other_clips(
    tiny_dataset, tiny_run, monkeypatch
):
    from toktalk_jax.evaluation import predict

    config = smoke(tiny_dataset)
    a = evaluate.evaluate(config, tiny_run, rows=("stream",), samples=1)[0]
    monkeypatch.setattr(predict, "BATCH", 2)
    b = evaluate.evaluate(config, tiny_run, rows=("stream",), samples=1, limit=2)[0]
    metrics = ("lve_mm", "mse_mm2", "lve_l2sq", "brow_fdd", "head_beat")
    for clip, score in b.scores.items():
        for metric in metrics:
            np.testing.assert_allclose(score[metric], a.scores[clip][metric], rtol=1e-4)


def test_unknown_rows_and_missing_datasets(tiny_dataset, tiny_run, tmp_path):
    with pytest.raises(ValueError, match="rigde"):
        evaluate.evaluate(smoke(tiny_dataset), tiny_run, rows=("rigde",))
    with pytest.raises(FileNotFoundError, match="no finished dataset"):
        evaluate.evaluate(smoke(tmp_path), tiny_run, rows=("static",))


def test_a_dataset_of_another_tokenizer_is_refused(tiny_dataset, tmp_path):
    config = small.get_config("lyra,smoke")
    config.dataset = str(tiny_dataset)
    with pytest.raises(ValueError, match="lyra"):
        train.train(config, tmp_path)


def test_a_regression_run_is_deterministic(tiny_dataset, tmp_path):
    config = small.get_config("regression,smoke")
    config.dataset = str(tiny_dataset)
    config.validation.clips, config.keep.best = 0, 0
    train.train(config, tmp_path)
    bundle = checkpoints.load(tmp_path)
    sampler = sample.make_sampler(bundle)
    tokens = np.random.default_rng(0).normal(size=(2, 10, 512)).astype("f4")
    tokens[1] = tokens[0]
    keys, style = jax.random.split(jax.random.key(0), 2), np.zeros((2, 8), "f4")
    motion = np.asarray(sampler.sample_clip(keys, tokens, style))
    np.testing.assert_allclose(motion[0], motion[1], atol=1e-6)
    assert len(sampler.times) == 2


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        **options,
    )


def test_command_lines_fail_in_one_line(tiny_dataset, tmp_path):
    done = command(
        "toktalk_jax.train",
        "--config=configs/small.py:smoke",
        f"--config.dataset={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("train: no finished dataset")
    done = command(*("toktalk_jax.train", "--config=configs/small.py", "--config.lr=1"))
    assert done.returncode == 1 and done.stderr.strip().startswith("train: ")
    assert "lr" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["train", "sample", "evaluate", "adapt"])
def test_help_helps(module):
    done = command(f"toktalk_jax.{module}", "--help")
    assert "--workdir" in done.stdout


@pytest.mark.long
def test_a_full_disk_stops_a_training_that_then_resumes(tiny_dataset, tmp_path):
    """Full at the first file and in a checkpoint; with room, the same command ends."""
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = (
        *("toktalk_jax.train", "--config=configs/small.py:smoke"),
        f"--config.dataset={tiny_dataset}",
    )
    whole = command(*arguments, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr[-2000:]
    wanted = checkpoints.load(tmp_path / "whole").meta["hash"]
    for kilobytes in (8, 1500):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs root")
        try:
            done = command(*arguments, f"--workdir={disk / 'run'}")
            assert done.returncode == 1
            assert "the disk is full; free some space" in done.stderr
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            done = command(*arguments, f"--workdir={disk / 'run'}")
            assert done.returncode == 0, done.stderr[-2000:]
            assert checkpoints.load(disk / "run").meta["hash"] == wanted
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("kills", [(10,), (5, 17, 30)], ids=str)
def test_a_killed_training_resumes(tiny_dataset, tmp_path, kills):
    """kill -9 in the middle; the same command ends bitwise like an undisturbed run."""
    arguments = [
        sys.executable,
        *("-m", "toktalk_jax.train", "--config=configs/small.py:smoke"),
        f"--config.dataset={tiny_dataset}",
        *("--config.total_steps=40", "--config.save_every=4", "--config.log_every=1"),
        "--config.train.window_frames=(20,)",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for lines in kills:
        process = subprocess.Popen(
            [*arguments, f"--workdir={killed}"], cwd=ROOT, stderr=subprocess.PIPE
        )
        log = killed / "metrics.jsonl"
        while process.poll() is None:
            if log.exists() and log.read_text().count("\n") >= lines:
                process.kill()
                break
        assert process.wait() == -9, process.stderr.read()[-2000:]
    for workdir in (killed, whole):
        done = subprocess.run(
            [*arguments, f"--workdir={workdir}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        start = int(re.search(r"(?:resumed|started) at step (\d+)", done.stdout)[1])
        assert (start >= 4) == (workdir == killed)
    a, b = (checkpoints.load(w).meta["hash"] for w in (killed, whole))
    assert a == b
    shutil.rmtree(killed)


def test_tokens_that_look_ahead_cannot_stream_sound():
    sampler = types.SimpleNamespace(chunk_frames=10)
    facts = dict(name="whisper", rate_hz=50.0)
    whole = types.SimpleNamespace(**facts, lookahead_s=math.inf)
    with pytest.raises(
        ValueError, match=r"whisper looks inf s ahead.*0.40 s.*--causal"
    ):
        sample.stream_audio(sampler, whole, np.zeros(9000, "f4"), None, None)
    longer = types.SimpleNamespace(**facts, lookahead_s=0.8)
    with pytest.raises(ValueError, match="looks 0.8 s ahead"):
        sample.stream_audio(sampler, longer, np.zeros(9000, "f4"), None, None)


def test_the_tokenizer_must_be_the_models_own():
    shipped = checkpoints.load("small")
    assert inputs.load_tokenizer(shipped).name == "mel_rvq"
    other = shipped.dataset | {"tokenizer_hash": "123456789abc"}
    bundle = shipped._replace(dataset=other)
    with pytest.raises(ValueError, match="other mel_rvq weights .*(123456789abc)"):
        inputs.load_tokenizer(bundle)
    bundle = shipped._replace(dataset=other | {"tokenizer": "hibari"})
    with pytest.raises(ValueError, match="no recording has; give --text"):
        inputs.load_tokenizer(bundle)
