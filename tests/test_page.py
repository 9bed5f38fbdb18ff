"""The page: what it embeds and what it refuses."""

import hashlib
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from toktalk_jax import motion as mo
from toktalk_jax.flame.assets import load_head
from toktalk_jax.page import __main__ as command
from toktalk_jax.page import pack, read_page, shade, write_page

SECONDS = 10
FRAMES = SECONDS * mo.FPS
FOLDER = pathlib.Path(shade.__file__).parent
INFO = {
    "chunk_frames": 10,
    "tokenizer": "mel_rvq </script><b>bold</b>",
    "scores": {"model": {"lve_mm": np.float32(3.4), "fdd": float("nan")}},
}


@pytest.fixture(scope="module")
def head():
    return load_head()


def speaking(seed, frames=FRAMES):
    """[frames, 56] of a talking, blinking, nodding head: all of the rig moves."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / mo.FPS
    rates, phases = rng.uniform(0.3, 3.0, (2, mo.F))
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * rates * time + phases)
    motion = 0.25 * wave
    motion[:, mo.JAW] = wave[:, mo.JAW] * [0.3, 0.05, 0.03]
    motion[:, mo.NECK] = (wave[:, mo.NECK] - 0.5) * [0.4, 0.5, 0.2]
    return motion.astype(np.float32)


def hum(seconds=SECONDS):
    time = np.arange(int(seconds * mo.SAMPLE_RATE)) / mo.SAMPLE_RATE
    rng = np.random.default_rng(5)
    buzz = np.sin(2 * np.pi * 140 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
    return (0.4 * buzz + 0.05 * rng.standard_normal(time.size)).astype(np.float32)


def write_example(head, path):
    """A page with two tracks of 10 s; ([motion, motion], audio)."""
    tracks = [("prediction", speaking(0)), ("truth <i>", speaking(1))]
    title = 'Say "<hello>" & {{data}}'
    write_page(path, head, tracks, hum(), title=title, info=INFO)
    return [motion for _, motion in tracks], hum()


@pytest.fixture(scope="module")
def page(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "watch.html"
    return path, *write_example(head, path)


def test_embedded_arrays_are_the_inputs_within_quantisation(page, head):
    path, motions, audio = page
    take = read_page(path)
    arrays = take["arrays"]
    for index, motion in enumerate(motions):
        np.testing.assert_array_equal(arrays[f"motion_{index}"], motion)
    np.testing.assert_allclose(arrays["audio"], audio, atol=0.51 / 32767)
    np.testing.assert_array_equal(arrays["template"], np.asarray(head.v_template))
    np.testing.assert_array_equal(arrays["faces"], np.asarray(head.faces))
    expression = np.moveaxis(np.asarray(head.expression_dirs), 2, 0)
    shown = arrays["expression"].reshape(expression.shape)
    # A step is 1 um, or the row's range over 32767 where that is coarser.
    step = max(1e-6, np.abs(expression).max() / 32767)
    np.testing.assert_allclose(shown, expression, atol=0.51 * step)
    step = max(1e-6, np.abs(np.asarray(head.posedirs)).max() / 32767)
    np.testing.assert_allclose(
        arrays["posedirs"], np.asarray(head.posedirs), atol=0.51 * step
    )
    np.testing.assert_allclose(
        arrays["joint_rest"],
        np.asarray(head.joint_regressor @ head.v_template),
        atol=1e-6,
    )
    assert take["tracks"] == ["prediction", "truth <i>"]
    assert take["chunk_frames"] == 10 and "chunk_frames" not in take["info"]
    assert take["info"]["scores"]["model"]["fdd"] == "nan"


def test_page_is_small_strict_and_escapes_its_texts(page):
    text = page[0].read_text()
    assert len(text) < 4e6, f"{len(text) / 1e6:.1f} MB"
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r'(src|href)="?(https?:)?//', text.split("<script id")[0])
    assert "<title>Say &quot;&lt;hello&gt;&quot; &amp; {{data}}</title>" in text
    assert text.count("</script>") == 2  # the data and the program, nothing injected
    assert "Permission is hereby granted" in text  # three.js asks for its notice


@pytest.mark.parametrize(
    ("file", "folders"), [("watch.js", ["src"]), ("live.js", ["src", "live"])]
)
def test_bundle_was_built_from_the_source_beside_it(file, folders):
    digest = hashlib.sha256()
    source = FOLDER / "source"
    for folder in folders:
        for path in sorted((source / folder).iterdir(), key=lambda path: path.name):
            digest.update(path.read_bytes())
    digest.update((source / "package-lock.json").read_bytes())
    first = (FOLDER / "bundle" / file).read_text().split("\n", 1)[0]
    assert digest.hexdigest() in first, "run `npm ci && npm run build` in page/source"


@pytest.mark.parametrize(
    ("tracks", "audio", "options", "message"),
    [
        ([], hum(1), {}, "0 tracks came"),
        ([("a", np.zeros((9, 55)))], hum(1), {}, r"shape \(9, 55\).*\[T, 56\]"),
        ([("a", np.zeros((0, 56)))], hum(1), {}, "at least one frame"),
        ([("a", np.full((9, 56), np.nan))], hum(1), {}, "NaN or Inf in 9 of 9"),
        ([("a", np.zeros((9, 56)))] * 5, hum(1), {}, "5 tracks came"),
        ([("a", np.zeros((9, 56)))], np.zeros(0, "f4"), {}, r"shape \(0,\)"),
        ([("a", np.zeros((9, 56)))], np.zeros((9, 2), "f4"), {}, "mono"),
        ([("a", np.zeros((9, 56)))], np.zeros(99, "i2"), {}, "int16"),
        ([("a", np.zeros((9, 56)))], np.full(99, np.inf), {}, "99 NaN or Inf"),
        ([("a", np.zeros((9, 56)))], hum(1), {"sample_rate": 0}, "sample_rate is 0"),
        ([("a", np.zeros((9, 56)))], hum(1), {"head_joint": "jaw"}, "head_joint"),
        (
            [("a", np.zeros((9, 56)))],
            hum(1),
            {"info": {"chunk_frames": 0}},
            "chunk_frames is 0",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(
    head, tmp_path, tracks, audio, options, message
):
    with pytest.raises(ValueError, match=message):
        write_page(tmp_path / "x.html", head, tracks, audio, **options)
    assert not list(tmp_path.iterdir())


def test_pack_round_trip_and_damage():
    rng = np.random.default_rng(0)
    arrays = {
        "exact": rng.standard_normal((3, 4)).astype(np.float32),
        "fixed": rng.uniform(-1, 1, (5, 7)).astype(np.float32),
        "wide": np.array([-1000.0, 250.0], np.float32),
        "index": np.arange(6).reshape(2, 3) * 70_000,
        "small": np.arange(4, dtype=np.uint8),
        "none": np.zeros((0, 3), np.float32),
    }
    block = json.loads(json.dumps(pack.pack(arrays, {"fixed": 1e-4, "wide": 1e-6})))
    back = pack.unpack(block)
    assert {name: a.shape for name, a in back.items()} == {
        name: a.shape for name, a in arrays.items()
    }
    np.testing.assert_array_equal(back["exact"], arrays["exact"])
    np.testing.assert_array_equal(back["index"], arrays["index"])
    np.testing.assert_allclose(back["fixed"], arrays["fixed"], atol=0.51e-4)
    np.testing.assert_allclose(back["wide"], arrays["wide"], atol=0.51 * 1000 / 32767)
    for damage in ("", block["body"][:20], "@" + block["body"][1:]):
        with pytest.raises(ValueError, match="damaged"):
            pack.unpack({**block, "body": damage})


def sphere(radius, rings=48):
    """Vertices and faces of a ball, faces counter-clockwise from outside."""
    polar = np.linspace(0, np.pi, rings)[:, None]
    turn = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)[None]
    x, y = np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn)
    z = np.broadcast_to(np.cos(polar), x.shape)
    index = np.arange(rings * 2 * rings).reshape(rings, 2 * rings)
    a, b = index[:-1].ravel(), index[1:].ravel()
    c = np.roll(index, -1, 1)[1:].ravel()
    d = np.roll(index, -1, 1)[:-1].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    vertices = radius * np.stack([x, y, z], -1).reshape(-1, 3)
    return vertices.astype(np.float32), faces


def test_openness_tells_outside_from_inside():
    vertices, faces = sphere(0.1)
    outside = shade.openness(vertices, faces)
    assert outside.min() > 0.8
    inner, inner_faces = sphere(0.06)
    both = np.concatenate([vertices, inner])
    joined = np.concatenate([faces, inner_faces + len(vertices)])
    hidden = shade.openness(both, joined)
    assert hidden[: len(vertices)].min() > 0.8
    assert hidden[len(vertices) :].max() < 0.1
    np.testing.assert_allclose(
        shade.vertex_normals(vertices, faces)[100], vertices[100] / 0.1, atol=0.05
    )


def test_command_reads_motion_files(head, page, tmp_path, capsys):
    first, second = tmp_path / "prediction.npz", tmp_path / "truth.npz"
    sound = (32767 * hum(1)).astype(np.int16)
    np.savez(
        first, motion=speaking(0, 25), audio=sound, sample_rate=16_000, chunk_frames=10
    )
    np.savez(second, motion=speaking(1, 25))
    out = tmp_path / "w.html"
    command.main([str(first), str(second), "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    take = read_page(out)
    assert take["tracks"] == ["prediction", "truth"] and take["chunk_frames"] == 10
    np.testing.assert_allclose(take["arrays"]["audio"], sound / 32767, atol=1e-6)
    with pytest.raises(SystemExit, match="holds no sound; give --audio"):
        command.main([str(second), "--out", str(out)])
    (tmp_path / "bad.npz").write_bytes(b"no npz")
    with pytest.raises(SystemExit, match=r"bad\.npz is not a whole \.npz file"):
        command.main([str(tmp_path / "bad.npz"), "--out", str(out)])
    with pytest.raises(ValueError, match="holds no take"):
        (tmp_path / "empty.html").write_text("<html></html>")
        read_page(tmp_path / "empty.html")


def test_head_arrays_take_identity_and_have_both_eyes(head):
    from toktalk_jax.page.write import _head_arrays

    arrays = _head_arrays(head, None)
    assert arrays["eye_places"].shape == (2, 4)
    left, right = arrays["eye_places"]
    assert left[0] > 0 > right[0]
    assert 0.01 < left[3] < 0.018, "metres"
    n_vertices = len(head.v_template)
    basis = jax.numpy.zeros((n_vertices, 3, 2)).at[:, 1, 1].set(0.01)
    lifted = _head_arrays(head.replace(shape_dirs=basis), np.array([5.0, 2.0]))
    np.testing.assert_allclose(
        lifted["template"] - arrays["template"], [[0, 0.02, 0]] * n_vertices, atol=1e-6
    )
    np.testing.assert_allclose(
        lifted["joint_rest"] - arrays["joint_rest"], [[0, 0.02, 0]] * 5, atol=1e-5
    )
