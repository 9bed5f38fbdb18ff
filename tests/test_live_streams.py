"""Live frames are those of the offline sampler, however they were asked for."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soundfile
import soxr

from tests import live_servers
from tests.live_servers import close_to, say, solo, speech, until
from toktalk_jax import motion as mo
from toktalk_jax import serve
from toktalk_jax.data.audio import read_audio
from toktalk_jax.live import binary, ease, rows, session
from toktalk_jax.live.client import PIECE, motion_of, spoken
from toktalk_jax.live.engine import Key
from tools import bench_live, live_client


@pytest.fixture
def client(live):
    with live.clients() as make:
        yield make


def test_s1_interleaved_sessions_equal_their_solo_runs(live, client):
    """Sound is sent in turn, so that chunks fall due together and share solves."""
    made = [("none", 3), ("warm", 4), ("lively", 5)]
    clients = [client(style=style, seed=seed) for style, seed in made]
    sounds = [speech(2.13, seed) for _, seed in made]
    for i in range(0, len(sounds[0]), PIECE):
        for one, sound in zip(clients, sounds, strict=True):
            one.say(sound[i : i + PIECE], first=i // PIECE)
    found = [say(one, sounds[0][:0]) for one in clients]
    for motion, sound, (style, seed) in zip(found, sounds, made, strict=True):
        options = {"style": style, "seed": seed, "whole": True}
        close_to(motion, solo(live.room.engine, sound, **options))
    assert np.abs(found[0] - found[1]).max() > 1e-3
    in_batches = live.room.metrics.registry.get_sample_value
    assert in_batches("toktalk_batch_rows_sum") > in_batches("toktalk_batch_rows_count")


@pytest.mark.parametrize("piece", [37, 640, 1280, 5000, 6400 * 3])
def test_t1_any_split_of_the_feed_equals_offline(live, client, piece):
    sound = speech(1.3)
    close_to(say(client(), sound, piece=piece), solo(live.room.engine, sound))


@pytest.mark.parametrize("chunk_s", [0.4, 0.24])
@pytest.mark.parametrize("rate", [16_000, 48_000, 22_050])
def test_t2_every_chunk_size_and_rate(live, client, chunk_s, rate):
    """At 48 kHz a chunk is whole messages, at 22.05 kHz no message is whole tokens."""
    sound = speech(1.31)
    pcm = {"kind": "pcm", "rate_hz": rate, "dtype": "f32"}
    sent = sound if rate == 16_000 else soxr.resample(sound, 16_000, rate)
    one = client(input=pcm, chunk_s=chunk_s)
    found = say(one, sent, piece=1000)
    frames = round(chunk_s * mo.FPS)
    heard = sent
    if rate != 16_000:
        stream = soxr.ResampleStream(rate, 16_000, 1)
        heard = stream.resample_chunk(sent, last=True)
    close_to(found, solo(live.room.engine, heard, chunk_frames=frames))
    assert {len(f.motion) for f in one.frames[:3]} == {frames}


def test_t2_tokens_at_the_base_rate_and_at_four_times_it(live, client):
    engine = live.room.engine
    tokens = engine.sources["mel_rvq"].tokenizer.embed(speech(1.5))
    wanted = solo(engine, None, tokens=tokens)
    form = {"kind": "tokens", "tokenizer": "mel_rvq", "dtype": "f32"}
    whole = client(input=form | {"rate_hz": 12.5, "dim": 512})
    close_to(say(whole, tokens, piece=3), wanted)
    quarter = client(input=form | {"rate_hz": 50, "dim": 128})
    close_to(say(quarter, tokens.reshape(-1, 128), piece=7), wanted)


@pytest.mark.parametrize("samples", [0, 1, 639, 641, 1280, 6400, 6401])
def test_t3_short_and_empty_utterances(live, client, samples):
    sound = speech(1.0)[:samples]
    one = client()
    found = say(one, sound)
    assert one.told("ended") == {
        "type": "ended",
        "utterance": 0,
        "frames": -(-samples // 640),
    }
    if samples:
        close_to(found, solo(live.room.engine, sound))
    assert len(found) == -(-samples // 640)


def test_t5_frames_are_counted_without_gaps(live, client):
    one = client()
    sound = speech(2.05)
    say(one, sound)
    speaking = [f for f in one.frames if not f.flags & binary.REST]
    ends = np.cumsum([0, *(len(f.motion) for f in speaking)])
    assert [f.first for f in speaking] == list(ends[:-1])
    assert [f.chunk for f in speaking] == list(range(len(speaking)))
    assert ends[-1] == int(np.ceil(len(sound) / mo.SAMPLE_RATE * mo.FPS))
    for f in speaking:  # the ledger is in order, and so are its chunks
        assert f.buffered <= f.tokenised <= f.solved <= f.sent
    assert np.all(np.diff([f.sent for f in speaking]) > 0)
    assert {f.session for f in one.frames} == {one.ready["session"]}
    assert all(f.dropped == 0 for f in speaking)


def test_t6_a_restart_joins_without_a_jump(live, client):
    """A change of C starts the solver anew: the step at the join is no larger."""
    one, sound = client(), speech(2.4)
    one.say(sound[:19200])
    one.wait(lambda c: sum(spoken(c)) >= 30)
    one.send("set", chunk_s=0.24)
    one.say(sound[19200:], first=15)
    one.send("end")
    one.told("ended")
    assert one.told("settings")["restarted"]
    (join,) = [f for f in one.frames if f.flags & binary.RESTARTED]
    motion = motion_of(one)
    steps = np.abs(np.diff(motion, axis=0)).max(1)
    assert steps[join.first - 1] <= np.percentile(steps, 90)
    fresh = solo(live.room.engine, None, tokens=np.zeros((3, 512), "f4"))
    joined = ease.join(fresh, motion[join.first - 2 : join.first])
    np.testing.assert_allclose(joined[0], 2 * motion[29] - motion[28], atol=1e-5)
    np.testing.assert_array_equal(joined[5:], fresh[5:])


def test_t7_known_frames_are_the_same_in_every_seat_and_after_the_solve(live_engine):
    """A row joins a batch with its context; the solve leaves that as it was."""
    key = Key("mel_rvq", 6, 2)
    sampler, settings = live_engine.samplers[key], live_engine.offer.settings
    mine = live_engine.open(key, settings, 1)
    other = live_engine.open(key, dataclasses.replace(settings, style="warm"), 2)
    tokens = np.random.default_rng(0).normal(size=(2, 3, sampler.width)).astype("f4")
    (mine,), first = live_engine.solve(key, [mine], tokens[:1])
    batched, seats = live_engine.solve(key, [other, mine], tokens)
    (alone,), lone = live_engine.solve(key, [mine], tokens[1:])
    np.testing.assert_allclose(seats[1], lone[0], rtol=1e-4, atol=1e-5)
    assert np.abs(first[0] - lone[0]).max() > 1e-3  # it did go on
    stats = live_engine.bundle.stats
    known = stats.normalise(first[0])[-4:]
    for row in (alone, batched[1]):
        found = row.stream.motion[0, -10:-6]
        np.testing.assert_allclose(
            found[:, stats.live], known[:, stats.live], rtol=1e-3, atol=1e-4
        )


def test_rows_go_to_the_device_and_back_unchanged(live_engine):
    key = Key("mel_rvq", 10, 2)
    opened = [live_engine.open(key, live_engine.offer.settings, s) for s in (1, 2, 3)]
    stream = rows.to_device(opened, 4, live_engine.samplers[key])
    back = rows.to_host(stream)
    for before, after in zip([*opened, opened[0]], back, strict=True):
        jax.tree.map(np.testing.assert_array_equal, before.stream, after.stream)


def test_a_history_made_ahead_changes_nothing(live_engine):
    """And is kept by its row alone: one that went on has to get its own."""
    key = Key("mel_rvq", 10, 2)
    opened = [live_engine.open(key, live_engine.offer.settings, s) for s in (1, 2)]
    sampler = live_engine.samplers[key]
    tokens = np.random.default_rng(0).normal(size=(2, 5, sampler.width)).astype("f4")
    after, _ = live_engine.solve(key, opened, tokens)
    assert all(rows.has_history(row, sampler) for row in opened)
    assert not any(rows.has_history(row, sampler) for row in after)
    late = [rows.Row(row.stream) for row in after]
    live_engine.prefill(key, after)
    assert all(rows.has_history(row, sampler) for row in after)
    ahead, in_time = (live_engine.solve(key, x, tokens)[1] for x in (after, late))
    np.testing.assert_array_equal(ahead, in_time)
    # Another sampler cannot use it: it makes its own.
    other = Key("mel_rvq", 10, 3)
    assert not rows.has_history(after[0], live_engine.samplers[other])
    found = [live_engine.solve(other, [x], tokens[:1])[1] for x in (after[0], late[0])]
    np.testing.assert_array_equal(*found)


def test_while_nothing_is_due_histories_come_ahead(live, client):
    """The second chunk of a stream finds what its solve needs."""
    prefill, made = live.room.engine.prefill, []
    live.room.engine.prefill = lambda key, batch: (
        made.append(batch) or prefill(key, batch)
    )
    try:
        one = client()
        one.say(speech(0.4))
        one.wait(spoken)
        # That of the solve, and then one ahead.
        until(lambda: len(made) > 1 and made[-1][0].history is not None)
        one.say(speech(0.4), first=5)
        one.wait(lambda c: sum(spoken(c)) >= 20)
        close_to(motion_of(one), solo(live.room.engine, np.tile(speech(0.4), 2)))
    finally:
        del live.room.engine.prefill


def test_settings_change_at_a_chunk_border(live, client):
    """Style and guidance from the next chunk on; before the first, as in the hello."""
    engine, sound = live.room.engine, speech(1.2)
    early = client()
    early.send("set", style="warm", guidance=0.9, steps=3, style_strength=1.5)
    assert early.told("settings")["steps"] == 3
    wanted = dict(style="warm", guidance=0.9, steps=3, style_strength=1.5)
    close_to(say(early, sound), solo(engine, sound, **wanted))
    late = client()
    late.say(sound[:6400])
    late.wait(lambda c: spoken(c))
    late.send("set", style="lively", guidance=2.0)
    found = say(late, sound[6400:], first=5)
    assert not late.told("settings")["restarted"]
    plain = solo(engine, sound)
    close_to(found[:10], plain[:10])
    assert np.abs(found - plain)[10:].max() > 1e-4


def test_every_set_is_answered_though_no_chunk_follows_it(client):
    one = client()
    for u, over in enumerate(("end", "cancel")):
        one.say(speech(0.4), u)
        one.wait(lambda c, u=u: sum(spoken(c, u)) >= 10)
        one.send("set", style_strength=1.5)  # at the second time, what is in force
        one.send(over)
        one.told({"end": "ended", "cancel": "cancelled"}[over])
        assert one.told("settings", u + 1)["style_strength"] == 1.5
    one.send("stats")
    one.told("stats")
    assert len([t for t in one.texts if t["type"] == "settings"]) == 2


def test_an_uploaded_style_is_encoded_as_offline(live, client):
    import base64
    import io

    from toktalk_jax.inputs import encode_style

    engine, sound = live.room.engine, speech(0.8)
    motion = 0.1 * np.random.default_rng(1).normal(size=(33, 56)).astype("f4")
    file = io.BytesIO()
    np.savez_compressed(file, motion=motion)
    npz = base64.b64encode(file.getvalue()).decode()
    found = say(client(style={"npz": npz}), sound)
    close_to(found, solo(engine, sound, style=motion.tobytes()))
    settings = dataclasses.replace(engine.offer.settings, style=motion.tobytes())
    offline = encode_style(engine.bundle, motion[None])
    np.testing.assert_allclose(engine.style(settings), offline, rtol=1e-4, atol=1e-5)


def test_utterances_of_a_session_follow_each_other(live, client):
    one = client(seed=7)
    for u in range(3):
        found = say(one, speech(0.9, u), u)
        close_to(found, solo(live.room.engine, speech(0.9, u), seed=7 + u))
        assert len(live_servers.rest_of(one, u)) == 1


def test_the_client_streams_a_wav(live, tmp_path, capsys):
    path, out = tmp_path / "say.wav", tmp_path / "motion.npz"
    soundfile.write(path, speech(1.1), 16_000)
    live_client.main(
        [str(path), "--url", live.url, "--out", str(out), "--fast", "--seed", "5"]
    )
    assert "1.12 s of motion" in capsys.readouterr().out
    from toktalk_jax import takes

    take = takes.read(out)
    close_to(take.motion, solo(live.room.engine, read_audio(path), seed=5))
    assert take.facts["seed"] == "5" and take.chunk_frames == 10
    with pytest.raises(SystemExit, match="live_client: no sound file"):
        live_client.main(["nowhere.wav", "--url", live.url])


def test_l1_the_bench_measures_one_and_many(live, tmp_path, capsys):
    path = tmp_path / "bench.json"
    arguments = ["--url", live.url, "--utterances", "3", "--sessions", "1,2"]
    bench_live.main(
        [*arguments, "--seconds", "0.8", "--steps", "2", "--json", str(path)]
    )
    found = json.loads(path.read_text())
    # The first chunk's sound itself takes 400 ms.
    assert found["first_frame_ms"]["p50"] > 400
    assert found["cancel_ms"]["max"] >= found["cancel_ms"]["p50"] > 0
    assert (
        found["sessions"]["1"]["chunks"] == 2 and found["sessions"]["2"]["chunks"] == 4
    )
    assert "first frame after first sample" in capsys.readouterr().out
    live.settled()
    with pytest.raises(SystemExit, match="bench_live: "):
        bench_live.main(["--url", "ws://127.0.0.1:9/live"])


@pytest.mark.parametrize("tool", [bench_live, live_client, serve])
def test_tools_help(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main(["--help"])
    assert end.value.code == 0 and "python -m" in capsys.readouterr().out


@pytest.mark.long
def test_t4_ten_minutes_of_stream_are_flat(live, client):
    """The solver's time does not grow, and no frame is lost."""
    one, piece = client(), speech(60)
    sequence, solve_ms = 0, []
    for _ in range(10):
        one.say(piece, first=sequence, piece=6400)
        sequence += 150
        one.wait(lambda c, n=sequence: sum(spoken(c)) >= 10 * (n - 5), 120)
        speaking = [f for f in one.frames if not f.flags & binary.REST][-100:]
        solve_ms.append(np.median(np.diff([f.solved for f in speaking])))
    one.send("end")
    assert one.told("ended", timeout=120)["frames"] == 10 * 60 * mo.FPS
    assert np.median(solve_ms[5:]) < 1.5 * np.median(solve_ms[:5])


def test_speech_is_only_as_long_as_its_tokens():
    """`due` gives whole chunks, and at the end what is left."""
    speech_of = lambda n: session.Speech(  # noqa: E731
        0, 0.0, None, np.zeros((n, 4), "f4"), ((0.0, 0.0),) * n
    )
    assert session.due(speech_of(4), 5, False) is None
    assert len(session.due(speech_of(12), 5, False)) == 5
    assert len(session.due(speech_of(4), 5, True)) == 4
    assert session.due(speech_of(0), 5, True) is None
