"""What the live server reads without trust: messages, clips, headers, values."""

import asyncio
import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from starlette.datastructures import Headers

from toktalk_jax.live import binary, clip, door, ease, hello, protocol, session
from toktalk_jax.live.outbox import Outbox
from toktalk_jax.live.protocol import InputFormat, ProtocolError

DEFAULTS = protocol.Settings("neutral", 1.0, 0.5, 5, 10)
OFFER = protocol.Offer(
    {"mel_rvq": (512, True), "hibari": (1280, False)},
    ("none", "neutral"),
    (10, 6),
    (5, 10),
    DEFAULTS,
)
PCM = InputFormat("pcm", "mel_rvq", 16_000.0, "f32")
LIMITS = session.Limits()
HELLO = {
    "type": "hello",
    "version": 1,
    "input": {"kind": "pcm", "rate_hz": 16000, "dtype": "i16"},
}


def opened():
    return session.Session(1, PCM, DEFAULTS)


def test_hello_and_frames_round_trip():
    form, seed, key, outputs = hello.read(HELLO | {"seed": 9}, OFFER)
    assert (form, seed, key) == (dataclasses.replace(PCM, dtype="i16"), 9, "")
    assert outputs == ("motion",)
    rng = np.random.default_rng(0)
    motion = rng.normal(size=(7, 56)).astype("f4")
    frames = binary.Frames(motion, 5, 1, 2, 3, 4, 6, 1.5, 2.5, 3.5, 4.5)
    back = binary.decode_frames(binary.encode_frames(frames))
    np.testing.assert_array_equal(back.motion, motion)
    same = [f.name for f in dataclasses.fields(back) if f.name != "motion"]
    assert all(getattr(back, name) == getattr(frames, name) for name in same)
    units = rng.normal(size=100).astype("f4")
    wire = binary.encode_input(3, 8, units)
    utterance, sequence, read = binary.decode_input(wire, PCM)
    assert (utterance, sequence) == (3, 8)
    np.testing.assert_array_equal(read, units)
    sound = np.array([-32768, 0, 16384], "<i2")
    form = dataclasses.replace(PCM, dtype="i16")
    *_, read = binary.decode_input(binary.encode_input(0, 0, sound), form)
    assert read.tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"input": None},
        {"input": {"kind": "pcm", "rate_hz": 12345, "dtype": "i16"}},
        {"input": {"kind": "pcm", "rate_hz": 16000, "dtype": "i8"}},
        {"input": {"kind": "pcm", "rate_hz": 16000, "dtype": "i16", "path": "/etc"}},
        {"input": HELLO["input"] | {"tokenizer": "hibari"}},
        {"input": HELLO["input"] | {"tokenizer": []}},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"outputs": ["video"]},
        {"outputs": "motion"},
        {"outputs": []},
        {"outputs": [["motion"]]},
        {"outputs": ["motion", "motion"]},
        {"outputs": ["motion", "arkit"]},
        {"input": {"kind": "text"}},
        {"style": "../../etc/passwd"},
        {"style": "x" * 10_000},
        {"style": {"npz": "!!!"}},
        {"style": {"path": "styles.npz"}},
        {"style": 3},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"guidance": 1e30},
        {"guidance": 10**400},
        {"chunk_s": 10**400},
        {"guidance": "1"},
        {"steps": 7},
        {"steps": True},
        {"chunk_s": 0.41},
        {"chunk_s": [0.4]},
        {"name": "<script>"},
        {"resume": "k" * 10_000},
    ],
    ids=lambda change: str(change)[:50],
)
def test_b2_b5_a_bad_hello_is_refused_by_code(change):
    message = HELLO | change
    with pytest.raises(ProtocolError) as error:
        hello.read(message, OFFER)
        protocol.settings(message, DEFAULTS, OFFER)
    assert error.value.code in ("version", "bad_hello", "bad_settings")
    assert len(json.dumps(error.value.wire())) < 500


@pytest.mark.parametrize(
    ("dim", "rate", "dtype", "fits"),
    [
        (512, 12.5, "f32", True),
        (256, 25, "f16", True),
        (128, 50.0, "f32", True),
        (511, 12.5, "f32", False),
        (512, 25, "f32", False),
        (512, 0, "f32", False),
        (512, -12.5, "f32", False),
        (512.0, 12.5, "f32", False),
        (512, 12.5, "i16", False),
        (512, "12.5", "f32", False),
        (512, float("nan"), "f32", False),
        (10**400, 12.5, "f32", False),
    ],
)
def test_b2_tokens_must_stack_to_the_models_width(dim, rate, dtype, fits):
    raw = {"kind": "tokens", "tokenizer": "mel_rvq", "dim": dim}
    message = HELLO | {"input": raw | {"rate_hz": rate, "dtype": dtype}}
    if fits:
        form, *_ = hello.read(message, OFFER)
        assert form.width * form.stack == 512
        return
    with pytest.raises(ProtocolError, match="512 wide at 12.5 Hz"):
        hello.read(message, OFFER)


@pytest.mark.parametrize(
    "payload",
    [
        np.array([np.nan], "f4").tobytes(),
        np.array([np.inf, 0], "f4").tobytes(),
        np.array([1e30], "f4").tobytes(),
        b"abc",
    ],
)
def test_b2_bad_sound_is_refused(payload):
    with pytest.raises(ProtocolError) as error:
        binary.decode_input(binary.encode_input(0, 0, np.zeros(0)) + payload, PCM)
    assert error.value.code == "bad_input" and not error.value.fatal


def test_b1_nothing_but_typed_errors_comes_of_noise():
    """Seeded noise, and valid messages with bytes changed, cut and repeated."""
    rng = np.random.default_rng(0)
    valid = json.dumps(HELLO | {"style": "none", "guidance": 1}).encode()
    outcomes = set()
    for _ in range(2000):
        data = bytearray(valid if rng.random() < 0.7 else rng.bytes(60))
        for _ in range(rng.integers(0, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = bytes(data[: rng.integers(1, len(data) + 1)])
        try:
            message = protocol.parse(data.decode("utf8", "replace"))
            hello.read(message, OFFER)
            protocol.settings(message, DEFAULTS, OFFER)
            outcomes.add("read")
        except ProtocolError as error:
            outcomes.add(error.code)
        try:
            *_, units = binary.decode_input(data, PCM)
            assert np.isfinite(units).all()
        except ProtocolError as error:
            outcomes.add(error.code)
    assert {"read", "bad_message", "bad_input", "version"} <= outcomes
    for text in ("[" * 100_000, "9" * 10_000, '{"type": {}}', "null", '"hello"'):
        with pytest.raises(ProtocolError):
            protocol.parse(text)


def test_b3_duplicate_missing_and_reordered_messages():
    one, used, told = session.take(opened(), 0, 0, 0.08, LIMITS)
    assert used and not told and one.sequence == 1
    with pytest.raises(session.Refused) as again:
        session.take(one, 0, 0, 0.08, LIMITS)
    with pytest.raises(session.Refused) as ahead:
        session.take(one, 0, 3, 0.08, LIMITS)
    for error in (again, ahead):
        assert error.value.code == "sequence"
        assert error.value.more == {"utterance": 0, "expected": 1}
    # Of what followed the gap nothing more is told, until it is sent again.
    gap = ahead.value.session
    assert session.take(gap, 0, 4, 0.08, LIMITS) == (gap, False, [])
    healed, used, _ = session.take(gap, 0, 1, 0.08, LIMITS)
    assert used and healed.sequence == 2 and not healed.refusing
    with pytest.raises(session.Refused, match="not yet begun"):
        session.take(one, 1, 0, 0.08, LIMITS)


def test_input_is_bounded_in_seconds_of_media():
    one, told = opened(), []
    with pytest.raises(session.Refused) as full:
        for i in range(1000):
            one, _, messages = session.take(one, 0, i, 0.08, LIMITS)
            told += messages
    assert [kind for kind, _ in told] == ["slow_down"]
    assert full.value.code == "overrun" and one.queued_s <= 2 * LIMITS.input_s
    one, messages = session.solved(full.value.session, 0, 2.0, LIMITS)
    assert messages == []
    one, messages = session.solved(one, 0, 1.2, LIMITS)
    assert [kind for kind, _ in messages] == ["go_on"]
    assert messages[0][1]["expected"] == one.sequence
    _, used, _ = session.take(one, 0, one.sequence, 0.08, LIMITS)
    assert used


def test_messages_that_wait_are_bounded_however_short():
    one, _, _ = session.take(opened(), 0, 0, 0.0, LIMITS)
    with pytest.raises(session.Refused) as full:
        session.take(one, 0, 1, 0.001, LIMITS, full=True)
    assert full.value.wire()["expected"] == 1
    one = full.value.session
    assert session.take(one, 0, 2, 0.001, LIMITS, full=True) == (one, False, [])
    one, messages = session.solved(one, 0, 0.0, LIMITS)
    assert messages[0][0] == "go_on" and messages[0][1]["expected"] == 1


def test_i1_cancel_is_idempotent_and_moves_on_once():
    with pytest.raises(ProtocolError, match="at most 2.0 s"):
        session.take(opened(), 0, 0, 2.1, LIMITS)
    one, _, _ = session.take(opened(), 0, 0, 2.0, LIMITS)
    one, over, messages = session.cancel(one, None, LIMITS)
    assert over == 0 and one.receiving == 1 and one.queued_s == 0
    assert messages[0] == ("cancelled", {"utterance": 0, "next": 1})
    twice, over, messages = session.cancel(one, 0, LIMITS)
    assert twice.receiving == 1 and messages[0][1]["next"] == 1
    assert session.take(one, 0, 1, 0.1, LIMITS)[1] is False  # it crossed the cancel
    ended, utterance = session.end(one)
    assert utterance == 1 and ended.receiving == 2
    after, _, messages = session.cancel(ended, 1, LIMITS)
    assert after.receiving == 2
    with pytest.raises(ProtocolError, match="not yet begun"):
        session.cancel(one, 5, LIMITS)


def test_i4_the_return_to_rest_keeps_pose_and_speed_and_is_gentle():
    time = np.arange(100) / 25
    rng = np.random.default_rng(0)
    amplitude = rng.uniform(0.05, 0.3, 56)
    said = amplitude[None] * (1 + np.sin(2 * np.pi * 4 * time[:, None])) / 2
    said = said.astype("f4")
    for end in range(20, 40):
        rest = ease.to_rest(said[end - 2 : end])
        whole = np.concatenate([said[:end], rest, np.zeros((3, 56), "f4")])
        peak = lambda x: np.abs(np.diff(x, 2, axis=0)).max(0)  # noqa: E731
        assert (peak(whole[end - 3 :]) <= 1.2 * peak(said)).all()
        np.testing.assert_array_equal(rest[-1], 0)
        step, before = rest[0] - said[end - 1], said[end - 1] - said[end - 2]
        assert np.abs(step - before).max() <= peak(said).max()
    still = ease.to_rest(said[:1])
    assert (np.diff(np.abs(still), axis=0) <= 0).all()


def test_a_return_begins_at_the_frame_on_show():
    motion = np.arange(20 * 56, dtype="f4").reshape(20, 56)
    shown = [
        binary.Frames(motion[:10], 0, 1, 0, 0, 0),
        binary.Frames(motion[10:], 0, 1, 0, 1, 10),
    ]
    last, ids = session.on_show(shown, 4)
    np.testing.assert_array_equal(last, motion[3:5])
    assert ids == (0, 1, 20)
    np.testing.assert_array_equal(session.on_show(shown, None)[0], motion[-2:])


def test_what_is_not_finite_never_leaves():
    tokens, times = np.zeros((10, 4), "f4"), ((1.0, 2.0),) * 10
    speech = session.Speech(0, 0.0, DEFAULTS, tokens, times, row="row")
    good = np.full((10, 56), 0.25, "f4")
    speech, frames = session.spoken(speech, 1, "row", good, 3.0)
    bad = good.copy()
    bad[7, 3] = np.nan
    speech, held = session.spoken(speech, 1, "spoilt", bad, 4.0)
    assert held.flags == binary.HELD and (held.motion == 0.25).all()
    assert speech.row is None and speech.restarted and speech.frame == 20


def test_l3_a_full_outbox_drops_its_oldest_frames_and_says_so():
    async def run():
        box = Outbox(1.0)
        motion = np.zeros((10, 56), "f4")
        for i in range(10):
            box.put(binary.Frames(motion, 0, 1, 0, i, 10 * i))
            box.put(f"text {i}")
        items = [await box.get() for _ in range(len(box))]
        frames = [x for x in items if not isinstance(x, str)]
        assert [f.first for f in frames] == [80, 90]
        assert frames[0].dropped == 80 and box.dropped_s == pytest.approx(3.2)
        assert [x for x in items if isinstance(x, str)] == [
            f"text {i}" for i in range(10)
        ]
        box.put(binary.Frames(motion, 0, 1, 3, 0, 0))
        box.put("later")
        item = await box.get()
        box.put_back(item)
        assert (await box.get()).utterance == 3 and await box.get() == "later"
        box.put(item)
        box.forget(3)
        assert len(box) == 0
        with pytest.raises(OverflowError):
            for _ in range(Outbox.MAX_TEXTS + 1):
                box.put("text")

    asyncio.run(run())


def npz(compress=True, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def forged(header):
    """An npz whose motion has this text as its header, and little behind it."""
    file, text = io.BytesIO(), header.encode()
    with zipfile.ZipFile(file, "w") as archive:
        size = len(text).to_bytes(2, "little")
        archive.writestr("motion.npy", b"\x93NUMPY\x01\x00" + size + text + b"\0" * 99)
    return file.getvalue()


def bomb():
    """A megabyte that unpacks to a gigabyte would be; this one to 300 MB of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("motion.npy", "w", force_zip64=True) as out:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (1_400_000, 56)}
            np.lib.format.write_array_header_1_0(out, shape)
            for _ in range(300):
                out.write(bytes(1 << 20))
    return file.getvalue()


GOOD = np.full((20, 56), 0.1, "f4")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\3\4 no archive",
        npz(motion=GOOD)[:-40],
        npz(motion=GOOD)[:200],
        npz(other=GOOD),
        npz(motion=GOOD[:5]),
        npz(motion=GOOD[:, :55]),
        npz(motion=GOOD.astype("i4")),
        npz(motion=np.asfortranarray(GOOD)),
        npz(motion=np.array([{"a": 1}], object)),
        npz(motion=GOOD * np.nan),
        npz(motion=GOOD * 1e30),
        forged("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 56), }\n"),
        forged("{'descr': '|O', 'fortran_order': False, 'shape': (20, 56), }\n"),
        forged("__import__('os').system('true')\n"),
        forged("(" * 4000),
        npz(motion=GOOD, **{f"more_{i}": GOOD[:1] for i in range(64)}),
    ],
    ids=range(17),
)
def test_b4_hostile_clips_are_refused(data):
    with pytest.raises(ValueError):
        clip.read(data)


def test_b4_a_bomb_is_not_unpacked():
    import tracemalloc

    data = bomb()
    tracemalloc.start()
    motion = clip.read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert motion.shape == (clip.MAX_FRAMES, 56) and peak < 20 << 20
    np.testing.assert_array_equal(clip.read(npz(motion=GOOD)), GOOD)
    np.testing.assert_array_equal(clip.read(npz(False, motion=GOOD)), GOOD)


@pytest.mark.parametrize(
    ("origin", "fits"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000", True),
        ("https://faces.example", True),
        (None, True),
        ("http://127.0.0.1:8001", False),
        ("http://127.0.0.1", False),
        ("https://127.0.0.1:8000", False),
        ("http://127.0.0.1:8000.evil.example", False),
        ("http://evil.example/http://127.0.0.1:8000", False),
        ("https://sub.faces.example", False),
        ("https://faces.example.evil", False),
        ("https://faces.example:444", False),
        ("null", False),
        ("", False),
    ],
)
def test_x1_origins_match_exactly(origin, fits):
    allowed = door.origins("127.0.0.1", 8000, ["https://faces.example"])
    headers = Headers({} if origin is None else {"origin": origin})
    assert door.refusal(headers, [], allowed, "") == (None if fits else (403, "origin"))


def test_x1_the_usual_port_stands_in_no_origin():
    assert "http://127.0.0.1" in door.origins("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        ({"authorization": "Bearer secret"}, True),
        ({"offered": ["toktalk.1", "token.secret"]}, True),
        ({}, False),
        ({"authorization": "Bearer "}, False),
        ({"authorization": "Bearer secre"}, False),
        ({"authorization": "Bearer secret2"}, False),
        ({"offered": ["toktalk.1"]}, False),
        ({"offered": ["secret"]}, False),
        ({"offered": ["token.secre"]}, False),
        ({"cookie": "token=secret"}, False),
    ],
)
def test_x2_a_token_is_wanted_whole(headers, fits):
    offered = headers.pop("offered", [])
    found = door.refusal(Headers(headers), offered, frozenset(), "secret")
    assert found == (None if fits else (401, "token"))
    with pytest.raises(ValueError, match="give --token"):
        door.check_options("0.0.0.0", "")
    with pytest.raises(ValueError, match="letters, digits"):
        door.check_options("0.0.0.0", "two words")
    door.check_options("127.0.0.1", "")
