"""Text said live: its frames are the offline ones, its sound lies on the same clock."""

import asyncio
import json
import time

import numpy as np
import pytest
import soundfile
import websocket

from tests.live_servers import close_to, rest_of, serving, solo, until
from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.data.corpora import speech
from toktalk_jax.live import binary, mouth, session
from toktalk_jax.live.client import motion_of, spoken
from toktalk_jax.live.outbox import Outbox
from toktalk_jax.live.protocol import InputFormat
from toktalk_jax.tokenizers import hibari
from tools import live_client

pytest.importorskip("hibari")
TEXT = {"kind": "text"}
SHORT = "Hello there. I am a face, and I speak."
LONG = " ".join(
    f"This is sentence number {i}, of a text that is long." for i in range(6)
)
AT_ONCE = {"ahead_s": 60.0, "output_s": 120.0}  # all of a text, without waiting


@pytest.fixture(scope="module")
def engine(speaking_engine):
    return speaking_engine


@pytest.fixture(scope="module")
def quick(engine):
    """A server that sends all of a text as soon as it can."""
    with serving(engine, limits=AT_ONCE) as server:
        yield server


@pytest.fixture
def client(quick):
    with quick.clients(input=TEXT) as make:
        yield make


def ended(client, utterance=0, timeout=30):
    """The `ended` of an utterance."""
    return client.wait(
        lambda c: next(
            (
                t
                for t in c.texts
                if t["type"] == "ended" and t["utterance"] == utterance
            ),
            None,
        ),
        timeout,
    )


def said_by(client, *texts, utterance=0):
    """Say texts as one utterance, to its end: (motion, wave i16, ended)."""
    for text in texts:
        client.send("say", text=text)
    client.send("end")
    over = ended(client, utterance)
    return motion_of(client, utterance), sound_of(client, utterance), over


def sound_of(client, utterance=0):
    """[L] i16; checked to have no gap."""
    sounds = [s for s in client.sounds if s.utterance == utterance]
    starts = np.cumsum([0, *(len(s.samples) for s in sounds)])
    assert [s.first for s in sounds] == starts[:-1].tolist()
    assert all(s.rate_hz == speech.WAVE_HZ and s.seconds <= 0.5 for s in sounds)
    return np.concatenate([np.zeros(0, "i2"), *(s.samples for s in sounds)])


def offline(engine, *texts, seed=0, whole=False, **changes):
    """(motion, wave) of the sampler and the synthesizer, each alone and at once.

    Args:
      whole: by `Sampler.sample_clip`; else by push and flush, as `live_servers.solo`.
    """
    found = [speech.utter(s) for text in texts for s in speech.sentences(text)]
    states = np.concatenate([each.states for each in found])
    tokens = mo.to_token_rate(states, hibari.RATE_HZ)
    wave = np.random.default_rng(seed)
    wave = np.concatenate([speech.wave_of(each, wave) for each in found])
    options = {"tokens": tokens, "source": "hibari", "seed": seed, "whole": whole}
    return solo(engine, None, **options, **changes), wave


def test_said_frames_and_sound_equal_the_offline_ones(engine, quick, client):
    one = client(seed=5, style="warm")
    assert one.ready["inputs"]["text"] is True
    motion, wave, over = said_by(one, SHORT, "And more.")
    changes = {"seed": 5, "style": "warm", "whole": True}
    wanted, sound = offline(engine, SHORT, "And more.", **changes)
    close_to(motion, wanted)
    assert np.abs(wave / 32767 - np.clip(sound, -1, 1)).max() < 1e-4
    assert over["frames"] == len(motion)
    assert over["seconds"] == pytest.approx(len(wave) / speech.WAVE_HZ)
    assert 0 <= over["seconds"] - len(motion) / mo.FPS < 1 / mo.TOKEN_HZ
    assert len(rest_of(one)) == 1


def test_latencies_are_told_and_add_up(quick, client):
    one = client()
    counted = quick.room.metrics.registry.get_sample_value
    compiles = counted("toktalk_compiles_after_ready_total")  # this process's
    begin = time.perf_counter()
    one.send("say", text=LONG)
    said = one.told("said")
    spent = 1e3 * (time.perf_counter() - begin)
    names = ("ttftb_ms", "audio_ms", "animation_ms", "first_frame_ms")
    ttftb, audio, animation, first = (said[name] for name in names)
    assert said["utterance"] == 0 and said["seconds"] > 0
    assert min(ttftb, audio, animation) > 0 and max(ttftb + audio, first) <= spent
    assert first >= ttftb + animation
    frames = one.wait(lambda c: c.frames)
    ledger = frames[0].sent - frames[0].buffered
    assert first == pytest.approx(ledger, abs=50)
    # The first frames are there before later sentences are known.
    one.send("end")
    assert said["seconds"] < 0.7 * ended(one)["seconds"]
    assert counted("toktalk_compiles_after_ready_total") == compiles


def test_utterances_follow_and_cancel_drops_sound_and_frames(engine, quick, client):
    one = client(seed=1)
    one.send("say", text=LONG)
    one.wait(lambda c: c.sounds and spoken(c))
    one.send("cancel")
    assert one.told("cancelled")["next"] == 1
    motion, wave, _ = said_by(one, SHORT, utterance=1)
    wanted, sound = offline(engine, SHORT, seed=2)
    close_to(motion, wanted)
    assert len(wave) == len(sound)
    assert one.sounds[0].utterance == 0
    one.send("cancel", utterance=0)
    assert one.told("cancelled", 2)["utterance"] == 0


def test_nothing_of_a_cancelled_text_comes_after_the_answer(engine):
    """Message by message, off the raw socket."""
    seconds, cancelled, stale, kinds = 0.0, False, 0, set()
    with serving(engine, limits={"ahead_s": 0.5}) as server:
        raw = websocket.create_connection(server.url, suppress_origin=True, timeout=20)
        raw.send(json.dumps({"type": "hello", "version": 1, "input": TEXT}))
        raw.send(json.dumps({"type": "say", "text": LONG}))
        while True:
            code, data = raw.recv_data()
            if code == websocket.ABNF.OPCODE_BINARY:
                rest = data[0] == 2 and bool(data[1] & binary.REST)
                stale += cancelled and not rest
                seconds += binary.decode_sound(data).seconds if data[0] == 3 else 0
                if {2, 3} == kinds | {data[0]} and not cancelled and kinds != {2, 3}:
                    raw.send(json.dumps({"type": "cancel"}))
                kinds.add(data[0])
                continue
            message = json.loads(data)
            if message["type"] == "cancelled":
                cancelled = True
                time.sleep(0.6)  # what was under way would come now
                raw.send(json.dumps({"type": "bye"}))
            if message["type"] == "bye":
                break
        raw.close()
        server.settled()
    whole = sum(speech.utter(s).states.shape[0] for s in speech.sentences(LONG)) / 80
    assert cancelled and not stale and 0 < seconds < whole / 2


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"text": ""}, "bad_text"),
        ({"text": "x" * 501}, "bad_text"),
        ({"text": 5}, "bad_text"),
        ({"text": None}, "bad_text"),
        ({}, "bad_text"),
        ({"text": "!?"}, "bad_text"),
        ({"text": "9" * 40}, "bad_text"),
        ({"text": "\u65e5\u672c"}, "bad_text"),
        ({"text": "Hello.", "utterance": 3}, "bad_message"),
    ],
    ids=str,
)
def test_bad_text_is_a_typed_error_and_the_session_lives(client, message, code):
    one = client()
    one.send("say", **message)
    error = one.told("error")
    assert error["code"] == code and not error["fatal"]
    motion, wave, _ = said_by(one, "Hello.")
    assert len(motion) and len(wave)


def test_kinds_of_input_do_not_mix(quick, client):
    one = client()
    one.socket.send_binary(binary.encode_input(0, 0, np.zeros(640, "f4")))
    assert one.told("error")["code"] == "bad_input"
    assert len(said_by(one, "Hello.")[0])
    one.close()
    quick.settled()
    pcm = {"kind": "pcm", "rate_hz": 16000, "dtype": "f32"}
    other = client(input=pcm)
    other.send("say", text="Hello.")
    assert other.told("error")["code"] == "bad_message"
    other.send("stats")
    assert other.told("stats")["queued_s"] == 0


def test_an_end_without_text_ends(client):
    one = client()
    one.send("end")
    assert ended(one) == {"type": "ended", "utterance": 0, "frames": 0, "seconds": 0}
    one.send("say", text="Hello.")
    one.send("end")
    assert ended(one, 1)["frames"] > 0


def test_text_that_waits_is_bounded_in_characters():
    form, settings = InputFormat("text", "hibari", 80.0, "", 256), None
    limits = session.Limits()
    one, text = session.Session(1, form, settings), "x" * 500
    for _ in range(4):
        one = session.say(one, text, limits)
    with pytest.raises(session.Refused) as full:
        session.say(one, "x", limits)
    assert full.value.code == "overrun" and one.waits == {"queued_chars": 2000}
    one, messages = session.solved(full.value.session, 0, 500, limits)
    assert messages == []
    one, messages = session.solved(one, 0, 500, limits)
    assert messages == [
        ("go_on", {"queued_chars": 1000, "utterance": 0, "expected": 0})
    ]
    one, _, _ = session.cancel(one, None, limits)
    assert one.queued_s == 0


def test_a_text_is_sent_just_ahead_of_its_time_and_none_is_lost(engine):
    """With the usual limits: never further ahead than that, and nothing dropped."""
    text = "One, two, three, four, five, six. Seven, eight, nine, and ten."
    with serving(engine) as server:
        one = server.client(input=TEXT)
        begin = time.perf_counter()
        motion, wave, over = said_by(one, text)
        ahead_s = one.ready["limits"]["ahead_s"]
        spent = time.perf_counter() - begin
        assert over["seconds"] > ahead_s + 1 and over["frames"] == len(motion)
        assert over["seconds"] - ahead_s - 0.5 < spent
        assert all(f.dropped == 0 for f in one.frames)
        for frames, came in zip(one.frames[:-1], one.came, strict=False):  # but rest
            assert frames.first / mo.FPS <= came - begin + ahead_s + 0.1
        one.send("stats")
        stats = one.told("stats")
        assert stats["dropped_s"] == 0 and stats["queued_chars"] == 0
        one.close()


def test_sound_that_is_not_read_gives_way_by_itself():
    async def run():
        box = Outbox(1.0)
        motion = np.zeros((10, 56), "f4")
        box.put(binary.Frames(motion, 0, 1, 0, 0, 0))
        for sound in binary.pieces(np.zeros(72_000, "f4"), 0, 0, 24_000):
            box.put(sound)
        items = [await box.get() for _ in range(len(box))]
        assert [x.first for x in items] == [0, 48_000, 60_000]
        assert items[0].dropped == 0 and box.dropped_s == 0

    asyncio.run(run())


def test_sound_round_trips_and_tokens_come_alike_however_split():
    wave = np.linspace(-1.5, 1.5, 30_000).astype("f4")
    sent = binary.pieces(wave, 3, 100, 24_000)
    assert [len(s.samples) for s in sent] == [12_000, 12_000, 6_000]
    back = binary.decode_sound(binary.encode_sound(sent[1]))
    assert (back.utterance, back.first, back.rate_hz) == (3, 12_100, 24_000)
    np.testing.assert_array_equal(back.samples, sent[1].samples)
    states = np.random.default_rng(0).normal(size=(777, 256)).astype("f4")
    wanted = mo.to_token_rate(states, hibari.RATE_HZ)
    for size in (1, 31, 110, 777):
        one = mouth.Mouth(0)
        parts = [one.hear(states[i : i + size], False) for i in range(0, 777, size)]
        found = np.concatenate([*parts, one.hear(states[:0], True)])
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert one.frames == 2 * len(found) and one.states == 777


def test_the_client_says_a_text(engine, quick, tmp_path, capsys):
    out = tmp_path / "motion.npz"
    options = ["--url", quick.url, "--out", str(out), "--arkit", "--seed", "3"]
    live_client.main(["--say", SHORT, *options])
    quick.settled()
    told = capsys.readouterr().out
    assert "ttftb" in told and "audio" in told and "animation" in told
    motion, wave = offline(engine, SHORT, seed=3)
    take = takes.read(out)
    close_to(take.motion, motion)
    assert take.sample_rate == speech.WAVE_HZ and len(take.audio) == len(wave)
    sound, rate = soundfile.read(tmp_path / "motion.wav", dtype="int16")
    assert rate == speech.WAVE_HZ and len(sound) == len(wave)
    with np.load(out) as stored:
        assert stored["arkit"].shape == (len(motion), 52)
    with pytest.raises(SystemExit, match="nothing was said"):
        live_client.main(["--say", "?!", *options])
    with pytest.raises(SystemExit, match="give a wav or --say"):
        live_client.main([])
    quick.settled()


def test_a_say_is_not_logged(quick, client, caplog):
    caplog.set_level("DEBUG")
    said_by(one := client(), "My secret is zanzibar.")
    one.send("say", text=f"Zanzibar has {'7' * 40} secrets.")
    assert one.told("error")["code"] == "bad_text"
    assert "not spoken: IndexError over a text" in caplog.text
    assert "zanzibar" not in caplog.text.lower() and "7777" not in caplog.text


def test_two_says_far_apart_are_one_utterance(engine, client):
    one = client()
    one.send("say", text="Hello there.")
    until(lambda: spoken(one))
    time.sleep(0.5)
    motion, _, _ = said_by(one, "And hello again.")
    close_to(motion, offline(engine, "Hello there.", "And hello again.")[0])
    assert not any(f.flags & binary.LATE for f in one.frames)


def test_a_long_text_is_not_idle_and_a_cut_one_goes_on(engine):
    """Nothing is sent while a text is said; the cut comes after, and is taken up."""
    limits = {"idle_s": 0.8, "warn_s": 0.2, "ahead_s": 0.3}
    with serving(engine, limits=limits) as server:
        one = server.client(input=TEXT, seed=4)
        one.send("say", text=SHORT)
        bye = one.told("bye")
        said = motion_of(one)
        assert len(said) / mo.FPS > 2 and bye["reason"] == "idle"
        two = server.client(input=TEXT, resume=bye["resume"])
        assert two.ready["utterance"] == 0
        two.send("say", text="And more.")
        two.send("end")
        over, motion = ended(two), motion_of(two)
        wanted, sound = offline(engine, SHORT, "And more.", seed=4)
        close_to(np.concatenate([said, motion]), wanted)
        assert two.sounds[0].first == sum(len(s.samples) for s in one.sounds)
        assert over["seconds"] == pytest.approx(len(sound) / speech.WAVE_HZ)
        two.close()
