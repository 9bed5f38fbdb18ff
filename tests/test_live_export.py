"""Motion posted to a live server comes back as a file, or as an error that says why."""

import http.client
import io
import json
import threading

import numpy as np
import pytest

from tests.live_servers import close_to, say, serving, solo, speech, until
from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.export import live_link
from toktalk_jax.flame import arkit
from toktalk_jax.live import exports


def post(server, kind, body, headers=None):
    """(status, headers, bytes)."""
    one = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    one.request("POST", f"/export/{kind}", body, headers or {})
    answer = one.getresponse()
    data = answer.read()
    one.close()
    return answer.status, answer.headers, data


def some_motion(frames=30):
    time = np.arange(frames) / mo.FPS
    motion = np.zeros((frames, mo.F), "<f4")
    motion[:, mo.ARKIT_EXPRESSION.index("mouthSmileLeft")] = 0.4
    motion[:, mo.JAW.start] = 0.1 * (1 + np.sin(9 * time))
    motion[:, mo.NECK.start + 1] = 0.2 * np.sin(3 * time)
    return motion


def posted(live, kind):
    """The bytes of the file of `some_motion`."""
    status, headers, data = post(live, kind, some_motion().tobytes())
    assert status == 200, data
    told = headers["content-disposition"]
    assert told == f'attachment; filename="toktalk.{kind}"'
    assert headers["content-type"] == exports.KINDS[kind]
    return data


def test_csv_and_npz_hold_motion_and_weights(live, tmp_path):
    motion = some_motion()
    wanted = arkit.to_arkit(live.room.engine.face.rig, motion)
    weights, neck, fps = live_link.decode(posted(live, "csv").decode())
    np.testing.assert_allclose(weights, wanted, atol=1e-6)
    np.testing.assert_allclose(neck, motion[:, mo.NECK], atol=1e-6)
    assert fps == pytest.approx(mo.FPS)
    data = posted(live, "npz")
    path = tmp_path / "take.npz"
    path.write_bytes(data)
    take = takes.read(path)
    np.testing.assert_array_equal(take.motion, motion)
    assert take.face_model == "stand_in"
    assert take.facts["checkpoint"] == live.room.engine.bundle.meta["hash"]
    with np.load(io.BytesIO(data)) as stored:
        np.testing.assert_allclose(stored["arkit"], wanted, atol=1e-6)


def test_glb_and_usd_are_such_files(live):
    pytest.importorskip("pygltflib")
    pytest.importorskip("pxr")
    glb = posted(live, "glb")
    assert glb[:4] == b"glTF"
    told = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    assert told["animations"][0]["name"] == "take"
    assert posted(live, "usd")[:8] == b"PXR-USDC"


def test_what_is_no_motion_is_refused_in_json(live):
    good = some_motion().tobytes()
    bad = np.full((3, mo.F), np.nan, "<f4").tobytes()
    huge = np.full((3, mo.F), 1e30, "<f4").tobytes()
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    cases = [
        (400, "csv", b"", {}),
        (400, "csv", good[:-1], {}),
        (400, "csv", bad, {}),
        (400, "glb", huge, {}),
        (404, "exe", good, {}),
        (413, "csv", bytes(exports.MAX_BYTES + 224), {}),
        (415, "csv", good, form),
        (403, "csv", good, {"Origin": "http://evil.example"}),
    ]
    for status, kind, body, headers in cases:
        try:
            found, _, data = post(live, kind, body, headers)
        except ConnectionError:
            # Refused, and closed, while it was still being sent.
            assert status == 413
            continue
        assert found == status, (kind, headers, found)
        assert list(json.loads(data)) == ["error"]
    assert post(live, "..%2fcsv", good)[0] == 404
    assert live.get("/export/csv")[0] == 405
    origin = {"Origin": f"http://127.0.0.1:{live.port}"}
    octets = {"Content-Type": "application/octet-stream"}
    assert post(live, "csv", good, origin | octets)[0] == 200


def test_a_body_without_a_length_is_bounded_too(live):
    piece = bytes(224 * 1000)
    many = (piece for _ in range(exports.MAX_BYTES // len(piece) + 2))
    try:
        assert post(live, "csv", many)[0] == 413
    except ConnectionError:
        pass  # refused, and closed, while it was still being sent
    # Not because the server fell over it.
    assert post(live, "csv", some_motion().tobytes())[0] == 200


def test_bodies_that_come_at_once_are_few(live):
    """Who sends none of what it announces keeps others out no longer than it stays."""
    body, idle = some_motion(3).tobytes(), []
    for _ in range(exports.MOST_BODIES):
        one = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        one.putrequest("POST", "/export/csv")
        one.putheader("Content-Length", "672")
        one.endheaders()
        idle.append(one)
    until(lambda: post(live, "csv", body)[0] == 503)
    for one in idle:
        one.close()
    until(lambda: post(live, "csv", body)[0] == 200)


def test_a_token_is_wanted(live_engine):
    body = some_motion(3).tobytes()
    with serving(live_engine, token="secret") as server:
        assert post(server, "csv", body)[0] == 401
        assert post(server, "csv", body, {"Authorization": "Bearer wrong"})[0] == 401
        assert post(server, "csv", body, {"Authorization": "Bearer secret"})[0] == 200


def test_one_at_a_time_and_chunks_go_on_meanwhile(live, monkeypatch):
    """While a file is made a second is told to wait, and a face is solved."""
    begun, go_on = threading.Event(), threading.Event()
    make, found = exports.make, []

    def slow(*arguments):
        begun.set()
        assert go_on.wait(30)
        return make(*arguments)

    monkeypatch.setattr(exports, "make", slow)
    body = some_motion().tobytes()
    thread = threading.Thread(target=lambda: found.append(post(live, "csv", body)))
    thread.start()
    try:
        assert begun.wait(10)
        status, headers, data = post(live, "glb", body)
        assert status == 503 and int(headers["retry-after"]) > 0
        assert "error" in json.loads(data)
        one = live.client()
        close_to(say(one, speech(0.5)), solo(live.room.engine, speech(0.5)))
        one.close()
    finally:
        go_on.set()
        thread.join(30)
    assert found[0][0] == 200
    assert post(live, "csv", body)[0] == 200
    live.settled()


def test_without_a_head_and_while_draining_no_file_is_made(live_engine):
    class Other:
        face = None

        def __getattr__(self, name):
            return getattr(live_engine, name)

    body = some_motion().tobytes()
    with serving(Other()) as server:
        status, _, data = post(server, "csv", body)
        assert status == 501 and "head" in json.loads(data)["error"]
        server.room.state = "draining"
        status, headers, _ = post(server, "csv", body)
        assert status == 503 and headers["retry-after"]
