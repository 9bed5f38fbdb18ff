"""What a live server promises under cancels, crowds, faults and hostile clients."""

import contextlib
import json
import random
import socket
import threading
import time

import numpy as np
import pytest
import websocket

from tests import live_servers
from tests.live_servers import close_to, say, serving, solo, speech, until
from toktalk_jax.live import binary
from toktalk_jax.live.client import PIECE, motion_of, spoken
from toktalk_jax.live.session import Limits


def kill(client):
    """Drop the connection as the kernel does for a dead process: no close frame."""
    raw = client.socket.sock  # its reader drops it as soon as it ends
    with contextlib.suppress(OSError):
        # Not only close(): while a thread polls it, that would leave it open.
        raw.shutdown(socket.SHUT_RDWR)
    raw.close()


def busy(url):
    """The answer to one connection more than there is room for."""
    one = websocket.create_connection(url, suppress_origin=True, timeout=10)
    message = json.loads(one.recv())
    code, _ = one.recv_data()
    one.close()
    return message, code


def sample(room, name, **labels):
    return room.metrics.registry.get_sample_value(f"toktalk_{name}", labels) or 0.0


class Gate:
    """An engine whose solves wait until `opened`, or fail as told."""

    def __init__(self, engine):
        self._engine, self.opened, self.waiting = engine, threading.Event(), 0
        self.fail = lambda batch: None
        self.opened.set()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def solve(self, key, batch, tokens):
        self.waiting += 1
        assert self.opened.wait(30)
        self.waiting -= 1
        found = self.fail(tokens)
        return self._engine.solve(key, batch, tokens) if found is None else found


# --- sessions ----------------------------------------------------------------------


def test_s2_s3_never_more_than_the_cap_and_the_next_is_told(live):
    """Fifty at once: four are in, the others are told busy; one leaves, one comes."""
    before = sample(live.room, "rejects_total", reason="sessions")
    most, answers = [0], []

    def open_one():
        one = websocket.create_connection(live.url, suppress_origin=True, timeout=20)
        pcm = {"kind": "pcm", "rate_hz": 16000, "dtype": "f32"}
        one.send(json.dumps({"type": "hello", "version": 1, "input": pcm}))
        answers.append((json.loads(one.recv()), one))
        most[0] = max(most[0], len(live.room.open))

    threads = [threading.Thread(target=open_one) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    kinds = [message["type"] for message, _ in answers]
    assert kinds.count("ready") == 4 and kinds.count("busy") == 46 and most[0] <= 4
    message, code = busy(live.url)
    assert message == {"type": "busy", "reason": "sessions", "retry_after_s": 2.0}
    assert code == websocket.ABNF.OPCODE_CLOSE
    assert sample(live.room, "rejects_total", reason="sessions") == before + 47
    for message, one in answers:
        if message["type"] == "ready":
            one.close()
            break
    until(lambda: len(live.room.open) == 3)
    live.client().close()
    for _, one in answers:
        one.close()
    live.settled()


@pytest.mark.parametrize("state", ["hello", "input", "solve", "ended", "cancelled"])
def test_s4_a_killed_client_leaves_its_slot(live_engine, state):
    gate = Gate(live_engine)
    with serving(gate) as server:
        if state == "hello":
            raw = websocket.create_connection(server.url, suppress_origin=True)
            until(lambda: server.room.open)
            raw.sock.close()
        else:
            one = server.client()
            if state == "solve":
                gate.opened.clear()
            one.say(speech(0.3 if state == "input" else 1.0))
            if state == "solve":
                until(lambda: gate.waiting)
            if state == "ended":
                one.send("end")
                one.told("ended")
            if state == "cancelled":
                one.send("cancel")
                one.told("cancelled")
            kill(one)
        server.settled()
        gate.opened.set()
        close_to(say(server.client(), speech(0.5)), solo(live_engine, speech(0.5)))


def test_s6_silent_and_overlong_sessions_are_warned_and_cut(live_engine):
    limits = {"hello_s": 0.3, "idle_s": 0.8, "max_s": 2.0, "warn_s": 0.4}
    with serving(live_engine, limits=limits) as server:
        raw = websocket.create_connection(server.url, suppress_origin=True, timeout=10)
        assert json.loads(raw.recv())["code"] == "no_hello"
        raw.close()
        idle = server.client()
        assert idle.ready["limits"]["idle_s"] == 0.8
        assert idle.told("warning", timeout=5)["reason"] == "idle"
        assert idle.told("bye", timeout=5)["reason"] == "idle"
        long = server.client()
        for i in range(200):
            if long.over or any(t["type"] == "bye" for t in long.texts):
                break
            long.socket.send_binary(binary.encode_input(0, i, np.zeros(160, "f4")))
            time.sleep(0.02)
        assert long.told("bye", timeout=5)["reason"] == "duration"
        server.settled()


def test_s7_a_cut_session_is_taken_up_and_a_live_one_is_not(live_engine):
    sound = speech(1.5)
    with serving(live_engine, limits={"idle_s": 0.6, "warn_s": 0.2}) as server:
        one = server.client(seed=3, style="warm")
        one.say(sound[:12800])
        key = one.told("bye")["resume"]
        again = server.client(resume=key)
        assert again.ready["settings"]["style"] == "warm"
        assert (again.ready["utterance"], again.ready["expected"]) == (0, 10)
        # The key is used up, and a session's number is no key.
        for stolen in (key, str(again.ready["session"])):
            with pytest.raises(ConnectionError, match="no session of that key"):
                server.client(resume=stolen)
        rest = say(again, sound[12800:], first=10)
        found = np.concatenate([motion_of(one), rest])
        close_to(found, solo(live_engine, sound, seed=3, style="warm"))


# --- interruption ------------------------------------------------------------------


def test_i1_i2_nothing_stale_after_a_cancel_is_answered(live_engine):
    """Mid-solve, mid-queue, before the first frame, twice, after the end."""
    gate = Gate(live_engine)
    with serving(gate) as server:
        one = server.client()
        one.send("cancel")  # before anything
        assert one.told("cancelled") == {
            "type": "cancelled",
            "utterance": 0,
            "next": 1,
        }
        gate.opened.clear()
        one.say(speech(1.3), 1)
        until(lambda: gate.waiting)  # the first chunk is being solved
        other = server.client()
        other.say(speech(0.4))
        until(lambda: server.room.scheduler.waited_s)
        other.send("cancel")  # in the queue
        other.told("cancelled")
        until(lambda: not server.room.scheduler.waited_s)
        one.send("cancel", utterance=1)
        one.send("cancel", utterance=1)
        one.told("cancelled", 3)
        gate.opened.set()
        found = say(one, speech(0.9, 5), 2)
        assert not [f for f in one.frames if f.utterance < 2]
        close_to(found, solo(live_engine, speech(0.9, 5), seed=2))
        frames = len(one.frames)
        one.send("cancel", utterance=2)  # after its end: nothing is left to do
        assert one.told("cancelled", 4)["next"] == 3
        one.send("stats")
        one.told("stats")
        assert len(one.frames) == frames and not other.frames


def test_i2_i3_i4_an_interruption_in_the_middle(live):
    """Old frames stop at the answer, the face eases back, the next one is whole."""
    one = live.client()
    one.say(speech(1.2))
    one.wait(lambda c: c.frames)
    one.send("cancel", utterance=0)
    found = say(one, speech(0.7, 1), 1)
    close_to(found, solo(live.room.engine, speech(0.7, 1), seed=1))
    (rest,) = live_servers.rest_of(one, 0)
    old = motion_of(one, 0)
    assert rest.first == len(old) and np.all(rest.motion[-1] == 0)
    assert (
        np.abs(rest.motion[0] - old[-1]).max() <= 2 * np.abs(np.diff(old, axis=0)).max()
    )
    one.close()
    live.settled()


def test_i2_over_many_cancels_no_old_frame_follows_its_answer(live):
    """The raw order of messages, with cancels at any moment."""
    one = websocket.create_connection(live.url, suppress_origin=True, timeout=20)
    pcm = {"kind": "pcm", "rate_hz": 16000, "dtype": "f32"}
    one.send(json.dumps({"type": "hello", "version": 1, "input": pcm}))
    rng, sound, over, heard = random.Random(0), speech(1.6), -1, 0
    for u in range(20):
        for i in range(rng.randrange(5, 16)):
            data = binary.encode_input(u, i, sound[i * PIECE : (i + 1) * PIECE])
            one.send_binary(data)
        if u % 2:
            time.sleep(rng.random() * 0.06)
        else:  # in the middle of its frames
            (connection,) = live.room.open.values()
            until(
                lambda c=connection, u=u: (
                    c.state and [f for f in c.state.shown if f.utterance == u]
                )
            )
        one.send(json.dumps({"type": "cancel", "utterance": u}))
    while over < 19:
        kind, data = one.recv_data()
        if kind == websocket.ABNF.OPCODE_BINARY:
            frames = binary.decode_frames(data)
            heard += 1
            assert frames.utterance > over or frames.flags & binary.REST
        else:
            message = json.loads(data)
            over = message["utterance"] if message["type"] == "cancelled" else over
    one.close()
    live.settled()
    assert heard >= 20  # ten times at least a chunk and its eased return


# --- load --------------------------------------------------------------------------


def test_l2_l3_overload_is_refused_and_hurts_nobody_for_ever(live_engine):
    """A solver stands still: input is bounded, newcomers are told, all recovers."""
    gate = Gate(live_engine)
    with serving(gate, limits={"errors": 1000}) as server:
        one = server.client()
        gate.opened.clear()
        for i in range(200):
            one.socket.send_binary(binary.encode_input(0, i, speech(0.08)))
        assert one.told("slow_down")["queued_s"] > 2.0
        refused = one.told("error")
        assert refused["code"] == "overrun" and refused["expected"] <= 4.0 / 0.08 + 1
        (connection,) = server.room.open.values()
        assert connection.state.session.queued_s <= 4.0
        assert connection.counts["errors"] == 1  # one for the run, not one a message
        until(lambda: server.room.scheduler.waited_s > 0 or gate.waiting)
        other = server.client()
        other.say(speech(0.4))
        until(lambda: server.room.scheduler.waited_s > 0.8)
        message, _ = busy(server.url)
        assert message["reason"] == "overloaded"
        gate.opened.set()
        assert one.told("go_on")["expected"] == refused["expected"]
        one.wait(lambda c: sum(spoken(c)) >= 10 * (refused["expected"] // 5))
        other.wait(lambda c: c.frames)


def test_l3_a_client_that_does_not_read_hurts_nobody(live_engine):
    """Its frames are dropped, the other's motion is whole and in time."""
    limits = {"output_s": 1.0}
    with serving(live_engine, limits=limits) as server:
        stalled = websocket.create_connection(
            *(server.url,),
            suppress_origin=True,
            sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)],
        )
        pcm = {"kind": "pcm", "rate_hz": 16000, "dtype": "f32"}
        stalled.send(json.dumps({"type": "hello", "version": 1, "input": pcm}))
        until(lambda: server.room.open)
        (connection,) = server.room.open.values()
        until(lambda: connection.state)
        held = connection.outbox
        held.put(binary.Frames(np.zeros((20_000, 56), "f4"), 0, 1, 0, 0, 0))
        until(lambda: not len(held))  # it is on its way, and stuck
        sound, i = speech(0.4), 0
        while not held.dropped_s:
            queued = connection.state.session.queued_s
            if queued < 1:
                stalled.send_binary(binary.encode_input(0, i, sound))
                i += 1
            time.sleep(0.002)
            assert i < 100
        assert sum(f.seconds for f in held._waiting) <= 1.0
        good = server.client()
        close_to(say(good, speech(1.2)), solo(live_engine, speech(1.2)))
        good.close()
        stalled.sock.close()
        server.settled(20)


def test_l4_nothing_compiles_after_ready(live):
    """Every size, style, guidance, batch and end of an utterance."""
    before = sample(live.room, "compiles_after_ready_total")
    clients = [live.client(seed=i, style=s) for i, s in enumerate(["none", "warm"])]
    plans = [(0.4, 2), (0.24, 3), (0.4, 3), (0.24, 2)]
    for u, (chunk_s, steps) in enumerate(plans):
        for one in clients:
            one.send("set", chunk_s=chunk_s, steps=steps, guidance=0.1 * u)
            one.say(speech(0.9 + 0.07 * u, u), u)
            one.send("end")
    for one in clients:
        one.told("ended", len(plans))
        one.close()
    assert sample(live.room, "compiles_after_ready_total") == before
    live.settled()


# --- input -------------------------------------------------------------------------


def test_b1_b2_b3_bad_messages_are_told_and_the_session_lives(live):
    one, sound = live.client(), speech(0.9)
    piece = lambda i: sound[i * PIECE : (i + 1) * PIECE]  # noqa: E731
    one.say(sound[: 3 * PIECE])
    bad = [
        "no json",
        '{"type": "dance"}',
        '{"type": "set", "steps": 99}',
        '{"type": "cancel", "utterance": 7}',
        b"\0" * 40,
        binary.encode_input(0, 3, piece(3) * np.nan),
        binary.encode_input(0, 1, piece(1)),  # once more
        binary.encode_input(0, 5, piece(5)),  # two are missing
        binary.encode_input(0, 4, piece(4)),
    ]
    for message in bad:
        if isinstance(message, str):
            one.socket.send(message)
        else:
            one.socket.send_binary(message)
    one.told("error", 8)
    codes = [t["code"] for t in one.texts if t["type"] == "error"]
    assert codes == [
        *("bad_message", "bad_message", "bad_settings", "utterance", "bad_input"),
        *("bad_input", "sequence", "sequence"),
    ]
    found = say(one, sound[3 * PIECE :], first=3)
    close_to(found, solo(live.room.engine, sound))
    one.close()


def test_b1_seeded_noise_ends_in_a_typed_error_and_others_go_on(live):
    good = live.client()
    rng = np.random.default_rng(1)
    for kind in ("text", "binary"):
        one = live.client()
        with pytest.raises((OSError, websocket.WebSocketException)):
            for _ in range(400):
                data = rng.bytes(int(rng.integers(1, 60)))
                if kind == "text":
                    one.socket.send(json.dumps({"type": data.hex()[:9]}))
                else:
                    one.socket.send_binary(data)
                time.sleep(0.002)
        until(lambda c=one: c.over)
        assert one.texts[-1]["code"] == "too_many_errors" and one.texts[-1]["fatal"]
    close_to(say(good, speech(0.5)), solo(live.room.engine, speech(0.5)))
    good.close()
    live.settled()


def test_b2_a_huge_message_is_cut_before_it_is_held(live):
    one = live.client()
    with pytest.raises((OSError, websocket.WebSocketException)):
        for _ in range(20):
            one.socket.send_binary(bytes(Limits().message_bytes * 5))
    until(lambda: one.over)
    live.settled()


def test_b2_no_compression_is_spoken(live):
    """A client that offers it gets none: there is no bomb to unpack."""
    header = ["Sec-WebSocket-Extensions: permessage-deflate"]
    one = websocket.create_connection(live.url, suppress_origin=True, header=header)
    assert "sec-websocket-extensions" not in one.getheaders()
    one.close()
    live.settled()


def test_numbers_that_are_none_are_held_and_counted(live_engine):
    """Finite tokens whose motion is not: the pose is held, the next chunk is good."""
    form = {"kind": "tokens", "tokenizer": "mel_rvq", "rate_hz": 12.5, "dim": 512}
    tokens = live_engine.sources["mel_rvq"].tokenizer.embed(speech(1.2))
    tokens[5:10] = 3e38
    with serving(live_engine) as server:
        one = server.client(input=form | {"dtype": "f32"})
        found = say(one, tokens, piece=5)
        assert np.isfinite(found).all() and len(found) == 30
        assert [f.flags for f in one.frames[:3]] == [
            *(0, binary.HELD, binary.RESTARTED),
        ]
        np.testing.assert_array_equal(found[10:20], np.repeat(found[9:10], 10, 0))
        assert sample(server.room, "nonfinite_total") == 1
        close_to(found[:10], solo(live_engine, None, tokens=tokens[:5]))


@pytest.mark.long
def test_s5_two_hundred_connects_and_drops_leave_nothing(live):
    import psutil

    process = psutil.Process()

    def cycle(count):
        for i in range(count):
            until(lambda: len(live.room.open) < 4)  # a slot is back within 2 s
            one = live.client()
            one.say(speech(0.5))
            if i % 3 == 0:
                one.wait(lambda c: c.frames)
            kill(one) if i % 2 else one.close()
        live.settled()

    cycle(20)
    before = process.memory_info().rss, process.num_fds(), live.tasks()
    cycle(200)
    until(lambda: process.num_fds() <= before[1] + 3, 30)
    until(lambda: live.tasks() <= before[2] + 1, 30)
    assert process.memory_info().rss - before[0] < 40 << 20


@pytest.mark.long
def test_l5_five_minutes_of_churn(live):
    """Sessions come, talk, interrupt and vanish; memory and answers stay the same."""
    import psutil

    process, until_s, grown = psutil.Process(), time.monotonic() + 300, []
    # Other servers of this process may have compiled since this one was ready.
    before = sample(live.room, "compiles_after_ready_total")

    def churn(seed):
        rng = random.Random(seed)
        while time.monotonic() < until_s:
            try:
                one = live.client(seed=seed)
                for u in range(rng.randrange(1, 4)):
                    one.say(speech(rng.uniform(0.2, 2), u), u)
                    one.send(rng.choice(["end", "cancel"]))
                kill(one) if rng.random() < 0.5 else one.close()
            except (OSError, websocket.WebSocketException):
                time.sleep(0.2)

    threads = [threading.Thread(target=churn, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until_s:
        time.sleep(10)
        grown.append(process.memory_info().rss)
    for thread in threads:
        thread.join(60)
    live.settled(20)
    third = len(grown) // 3
    assert np.median(grown[-third:]) - np.median(grown[third:-third]) < 30 << 20
    assert sample(live.room, "errors_total", code="internal") == 0
    assert sample(live.room, "compiles_after_ready_total") == before
    one = live.client()
    close_to(say(one, speech(0.5)), solo(live.room.engine, speech(0.5)))
    one.close()
