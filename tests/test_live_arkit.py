"""ARKit weights on the wire: those of the motion that went out, and nothing else."""

import asyncio

import numpy as np
import pytest

from tests.live_servers import close_to, rest_of, say, serving, solo, speech
from toktalk_jax import motion as mo
from toktalk_jax.flame import arkit
from toktalk_jax.flame.assets import load_head
from toktalk_jax.live import binary, protocol
from toktalk_jax.live.client import motion_of

BOTH = ["motion", "arkit"]


@pytest.fixture(scope="module")
def rig():
    """Made here, not the server's."""
    return arkit.prepare(load_head())


@pytest.fixture
def client(live):
    with live.clients() as make:
        yield make


@pytest.mark.parametrize("chunk_s", [0.4, 0.24])
def test_wire_weights_are_those_of_the_motion(live, client, rig, chunk_s):
    sound, counted = speech(1.33), live.room.metrics.registry.get_sample_value
    one = client(outputs=BOTH, chunk_s=chunk_s)
    before = counted("toktalk_compiles_after_ready_total")  # of all this process
    motion = say(one, sound)
    assert counted("toktalk_compiles_after_ready_total") == before
    close_to(motion, solo(live.room.engine, sound, chunk_frames=round(chunk_s * 25)))
    assert len(rest_of(one)) == 1
    for frames in one.frames:
        assert frames.arkit.shape == (len(frames.motion), 52)
        assert frames.arkit.min() >= 0 and frames.arkit.max() <= 1
        wanted = arkit.to_arkit(rig, frames.motion)
        np.testing.assert_allclose(frames.arkit, wanted, atol=1e-5)
    assert max(frames.arkit.max() for frames in one.frames) > 0.01


def test_ready_names_the_columns(client):
    one = client(outputs=["arkit", "motion"])
    assert one.ready["outputs"] == BOTH
    columns = one.ready["columns"]
    assert columns["motion"] == [0, 56] and columns["arkit"] == [56, 108]
    assert columns["names"] == list(mo.ARKIT_52)
    assert client().ready["columns"] == {"motion": [0, 56]}


def test_weights_alone_and_motion_alone(client):
    sound = speech(0.7)
    plain, alone, both = (client(outputs=x) for x in (["motion"], ["arkit"], BOTH))
    for one in (plain, alone, both):
        one.say(sound)
        one.send("end")
        one.told("ended")
    assert all(f.arkit is None for f in plain.frames)
    assert all(f.motion.shape[1] == 0 for f in alone.frames)
    weights = [np.concatenate([f.arkit for f in one.frames]) for one in (alone, both)]
    np.testing.assert_allclose(*weights, atol=1e-4)
    close_to(motion_of(both), motion_of(plain))


def test_a_closed_jaw_stays_closed(live, client):
    """The neutral face has no jaw weight; nor has the end of the eased return."""
    jaws = [i for i, name in enumerate(mo.ARKIT_52) if name.startswith("jaw")]
    weights = live.room.engine.arkit(np.zeros((7, mo.F), np.float32))
    assert weights.shape == (7, 52) and np.abs(weights).max() < 1e-6
    one = client(outputs=BOTH)
    say(one, speech(0.5))
    (rest,) = rest_of(one)
    assert np.abs(rest.arkit[-1, jaws]).max() < 1e-6


def test_a_cancel_keeps_the_order_of_frames(client):
    """Weights are waited for between a frame's turn and its sending."""
    one = client(outputs=BOTH)
    one.say(speech(2.0))
    one.wait(lambda c: c.frames)
    one.send("cancel")
    one.told("cancelled")
    (rest,) = one.wait(rest_of)
    one.send("stats")
    one.told("stats")
    assert [f for f in one.frames if f.utterance == 0][-1] is rest
    said = [f for f in one.frames if not f.flags & binary.REST]
    assert rest.first == sum(len(f.motion) for f in said)


def test_a_server_that_drains_sends_the_last_weights_too(live_engine):
    """They are still being made when the session has nothing more to say."""
    with serving(live_engine) as server:
        one = server.client(outputs=BOTH)
        one.say(speech(1.0))
        one.wait(lambda c: c.frames)
        asyncio.run_coroutine_threadsafe(server.room.drain(), server.loop())
        assert one.told("bye")["reason"] == "draining"
        assert one.told("ended")["frames"] == 25
        assert len(motion_of(one)) == 25
        assert len(rest_of(one)) == 1


def test_frames_round_trip_in_every_width():
    rng = np.random.default_rng(0)
    motion, weights = rng.normal(size=(7, 56)), rng.random((7, 52))
    frames = binary.Frames(
        *(motion.astype("f4"), 1, 2, 3, 4, 5), arkit=weights.astype("f4")
    )
    for outputs, width in ((["motion"], 56), (["arkit"], 52), (BOTH, 108)):
        data = binary.encode_frames(frames, outputs)
        assert len(data) == 64 + 4 * 7 * width
        back = binary.decode_frames(data, outputs)
        assert (back.first, back.utterance, len(back.motion)) == (5, 3, 7)
        if "motion" in outputs:
            np.testing.assert_array_equal(back.motion, frames.motion)
        if "arkit" in outputs:
            np.testing.assert_array_equal(back.arkit, frames.arkit)
    assert list(protocol.columns(("arkit", "motion"))) == [*BOTH, "names"]


def test_another_face_offers_no_weights(live_engine):
    class Other:
        """An engine of a head whose ARKit shapes are not known."""

        offer = protocol.Offer(**(vars(live_engine.offer) | {"outputs": ("motion",)}))

        def __getattr__(self, name):
            return getattr(live_engine, name)

    with serving(Other()) as server:
        with pytest.raises(ConnectionError, match="bad_hello"):
            server.client(outputs=BOTH)
        one = server.client()
        assert one.ready["outputs"] == ["motion"]
        one.close()
