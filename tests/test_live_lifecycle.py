"""A live server's life: alive, ready, full of metrics, guarded, drained."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import websocket
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, random_adapter
from tests.live_servers import close_to, get, say, serving, solo, speech, until
from tests.test_live_limits import Gate, busy
from toktalk_jax import serve
from toktalk_jax.live import binary, engine, golden
from toktalk_jax.live.client import Client
from toktalk_jax.training import checkpoints

TOKEN = "a-secret-of-the-test"


class Unready:
    """An engine that waits, or fails, before it is ready."""

    def __init__(self, engine, why=""):
        self._engine, self._why, self.go = engine, why, threading.Event()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def prepare(self):
        assert self.go.wait(30)
        if self._why:
            raise RuntimeError(self._why)
        yield "a shape"


def test_h1_alive_before_ready(live_engine):
    unready = Unready(live_engine)
    with serving(unready, ready=False) as server:
        assert server.get("/healthz") == (200, '{"alive":true}')
        status, text = server.get("/readyz")
        assert status == 503 and json.loads(text)["state"] == "starting"
        assert busy(server.url)[0]["reason"] == "starting"
        unready.go.set()
        until(lambda: server.get("/readyz")[0] == 200)
        server.client().close()


def test_h2_not_ready_when_the_self_test_fails(live_engine):
    unready = Unready(live_engine, "self-test: off its golden chunk")
    unready.go.set()
    with serving(unready, ready=False) as server:
        until(lambda: server.room.state == "failed")
        status, text = server.get("/readyz")
        assert status == 503 and "golden chunk" in json.loads(text)["why"]
        assert server.get("/healthz")[0] == 200
        assert busy(server.url)[0]["reason"] == "failed"


def test_h2_the_golden_chunk_finds_other_weights_and_numbers_that_are_none(
    live_engine, tmp_path, monkeypatch
):
    golden.check(live_engine)
    key = next(iter(live_engine.samplers))
    motion = golden.served(live_engine, key, 1)
    path = tmp_path / "golden.json"
    monkeypatch.setattr(golden, "PATH", path)
    for change in (1.0, 1.05, np.nan):
        known = {"key": list(key), "motion": (motion * change).tolist()}
        path.write_text(json.dumps({live_engine.bundle.meta["hash"]: known}))
        if change == 1.0:
            golden.check(live_engine)
            continue
        with pytest.raises(RuntimeError, match="off its golden chunk"):
            golden.check(live_engine)


def test_the_shipped_model_has_its_golden_chunk():
    """Of other weights: `python -m toktalk_jax.live.golden`."""
    known = json.loads(golden.PATH.read_text())
    found = known[checkpoints.load("small").meta["hash"]]
    assert np.shape(found["motion"]) == (10, 56) and np.ptp(found["motion"]) > 0.01


def test_a_golden_chunk_is_made_and_reproduced(live_engine, tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "PATH", tmp_path / "golden.json")
    monkeypatch.setattr(engine, "Engine", lambda *sizes, **more: live_engine)
    golden.main(["--checkpoint", "any"])
    (known,) = json.loads(golden.PATH.read_text()).values()
    found = golden.served(live_engine, next(iter(live_engine.samplers)), 2)
    np.testing.assert_allclose(known["motion"], found, atol=1e-4)
    golden.check(live_engine)


def test_the_model_and_its_adapter_have_tokenizers_of_their_own(
    tiny_run, tmp_path, monkeypatch, caplog
):
    """Each gets its own files, and without the model's the adapter's still hears."""
    pytest.importorskip("hibari")
    path = random_adapter(tiny_run, tmp_path / "adapter")
    facts = json.loads((path / "adapter.json").read_text())
    facts["foreign"]["tokenizer"] = "whisper:causal"
    (path / "adapter.json").write_text(json.dumps(facts))

    def load(bundle, weights, adapter):
        if not weights:
            raise ValueError("it needs files")
        return weights

    monkeypatch.setattr(engine.inputs, "load_tokenizer", load)
    sizes = {"chunks": [0.4], "steps": [2], "max_sessions": 1}

    def heard_by(*files):
        made = engine.Engine(str(tiny_run), str(path), *files, **sizes)
        return {name: source.tokenizer for name, source in made.sources.items()}

    both = {"mel_rvq": "its", "whisper:causal": "the adapter's"}
    assert heard_by("its", "the adapter's") == both
    assert heard_by("", "the adapter's") == both | {"mel_rvq": None}
    assert "reaches the adapter alone: it needs files" in caplog.text
    with pytest.raises(ValueError, match="it needs files"):
        heard_by("its", "")
    with pytest.raises(ValueError, match="it needs files"):
        engine.Engine(str(tiny_run), **sizes)


@pytest.mark.long
def test_the_shipped_model_reproduces_its_golden_chunk():
    shipped = engine.Engine("small", chunks=[0.4], steps=[5], max_sessions=1)
    assert list(shipped.prepare())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--adapter", "nowhere"], "no adapter at 'nowhere'"),
        (["--host", "0.0.0.0"], "give --token"),
        (["--chunk_s", "0.41"], "not a whole number"),
        (["--steps", "many"], "--steps is 'many'"),
        (["--max_sessions", "0"], "--max_sessions is 0"),
    ],
    ids=str,
)
def test_h2_mistakes_end_in_one_line(arguments, message, monkeypatch):
    monkeypatch.delenv("TOKTALK_TOKEN", raising=False)
    with pytest.raises(SystemExit, match=message) as end:
        serve.main(["--port", "0", "--cache", "", *arguments])
    assert str(end.value).startswith("serve: ") and "\n" not in str(end.value)


def test_h4_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port {port} of 127.0.0.1 is in use"):
            serve.main(["--port", str(port), "--cache", ""])


def test_x5_loopback_is_the_default():
    assert serve.parser().parse_args([]).host == "127.0.0.1"


def test_h5_a_device_out_of_memory_ends_one_session_only(live_engine):
    """The culprit is found though both were in one batch."""
    gate = Gate(live_engine)
    mine, theirs = speech(0.8, 1), speech(0.8, 2)
    poison = live_engine.sources["mel_rvq"].tokenizer.embed(theirs[:6400])

    def fail(tokens):
        if any(np.array_equal(row, poison) for row in tokens):
            raise MemoryError("RESOURCE_EXHAUSTED: injected")

    gate.fail = fail
    with serving(gate) as server:
        blocker, good, bad = (server.client() for _ in range(3))
        gate.opened.clear()
        blocker.say(speech(0.4))
        until(lambda: gate.waiting)
        good.say(mine[:6400])
        bad.say(theirs[:6400])
        until(lambda: len(server.room.scheduler._due) == 2)
        gate.opened.set()
        until(lambda: bad.over)
        assert bad.texts[-1]["code"] == "internal" and bad.texts[-1]["fatal"]
        close_to(say(good, mine[6400:], first=5), solo(live_engine, mine))
        until(lambda: len(server.room.open) == 2)
        assert server.get("/readyz")[0] == 200


def test_h6_metrics_agree_with_what_was_done(live_engine):
    with serving(live_engine) as server:
        for u in range(2):
            one = server.client(steps=[2, 3][u])
            say(one, speech(1.2))
            one.say(speech(0.2), 1)
            one.send("cancel")
            one.told("cancelled")
            one.send("dance")
            one.told("error")
            one.close()
        server.settled()
        status, text = server.get("/metrics")
        found = {
            (s.name.removeprefix("toktalk_"), *s.labels.values()): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }
    assert status == 200
    assert found[("sessions",)] == 0 and found[("sessions_opened_total",)] == 2
    assert found[("chunks_total",)] == 6
    assert found[("chunk_ms_count", "2")] == found[("chunk_ms_count", "3")] == 3
    assert found[("queue_seconds_count",)] == 6
    assert found[("cancel_ms_count",)] == 2
    assert found[("errors_total", "bad_message")] == 2
    assert found[("nonfinite_total",)] == 0
    assert found[("compiles_after_ready_total",)] == 0
    assert found[("deadline_misses_total",)] <= 6


def test_x1_x2_strangers_are_refused_before_the_upgrade(live_engine):
    with serving(live_engine, token=TOKEN) as server:
        mine = f"http://127.0.0.1:{server.port}"
        bearer = [f"Authorization: Bearer {TOKEN}"]
        refused = [
            ({"origin": "http://evil.example", "header": bearer}, 403),
            ({"origin": f"{mine}.evil.example", "header": bearer}, 403),
            ({"origin": "null", "header": bearer}, 403),
            ({"origin": mine}, 401),
            ({"origin": mine, "header": ["Authorization: Bearer wrong"]}, 401),
            ({"suppress_origin": True, "subprotocols": ["token.wrong"]}, 401),
        ]
        for options, status in refused:
            with pytest.raises(websocket.WebSocketBadStatusException) as error:
                websocket.create_connection(server.url, timeout=10, **options)
            assert error.value.status_code == status
        value = server.room.metrics.registry.get_sample_value
        assert value("toktalk_rejects_total", {"reason": "origin"}) == 3
        assert value("toktalk_rejects_total", {"reason": "token"}) == 3
        assert value("toktalk_sessions_opened_total") == 0
        websocket.create_connection(server.url, origin=mine, header=bearer).close()
        server.client(token=TOKEN).close()


def test_x3_no_secret_and_no_voice_in_the_logs(live_engine, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn.error").propagate = True
    gate = Gate(live_engine)

    def fail(tokens):
        raise ValueError("a fault that is logged")

    with serving(gate, token=TOKEN) as server:
        one = server.client(token=TOKEN)
        gate.fail = fail
        one.say(speech(0.5))
        until(lambda: one.over)
    text = caplog.text
    assert "a fault that is logged" in text and TOKEN not in text
    # Not the end of a hash in JAX's own lines, which may be a b.
    assert not re.search(r"\bb'", text) and "array(" not in text


def start(run, *arguments):
    """A server process on the tiny run; (process, its URL)."""
    command = [sys.executable, "-m", "toktalk_jax.serve", "--checkpoint", str(run)]
    sizes = ["--chunk_s", "0.4", "--steps", "2", "--max_sessions", "1", "--cache", ""]
    process = subprocess.Popen(
        [*command, *sizes, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "TOKTALK_TOKEN": TOKEN,
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        },
    )
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), process.stderr.read()
    return process, line.split()[0]


def test_h3_sigterm_lets_an_utterance_end_and_exits_0(tiny_run):
    process, url = start(tiny_run)
    try:
        until(lambda: get(f"{url}/readyz")[0] == 200, 120)
        one = Client(url.replace("http", "ws") + "/live", TOKEN)
        one.say(speech(1.0))
        one.send("stats")
        one.told("stats")  # so all of the sound was read, and the signal comes after it
        process.send_signal(signal.SIGTERM)
        assert one.told("ended")["frames"] == 25
        assert one.told("bye")["reason"] == "draining"
        speaking = [f for f in one.frames if not f.flags & binary.REST]
        assert sum(len(f.motion) for f in speaking) == 25
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert TOKEN not in out + err and "Traceback" not in err
    finally:
        process.kill()


def test_h3_sigterm_when_idle_though_it_still_compiles(tiny_run):
    process, _ = start(tiny_run)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err


@pytest.mark.long
def test_h3_a_second_sigterm_does_not_wait(tiny_run):
    """For a session that never ends its utterance."""
    process, url = start(tiny_run, "--drain_s", "60")
    try:
        until(lambda: get(f"{url}/readyz")[0] == 200, 120)
        raw = websocket.create_connection(
            *(url.replace("http", "ws") + "/live",),
            suppress_origin=True,
            header=[f"Authorization: Bearer {TOKEN}"],
        )
        process.send_signal(signal.SIGTERM)
        until(lambda: get(f"{url}/readyz")[0] == 503)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in err
        raw.sock.close()
    finally:
        process.kill()
