"""The page: what it embeds, what it refuses, and what Chromium paints of it."""

import hashlib
import io
import json
import pathlib
import re
import shutil
import time

import jax
import numpy as np
import pytest

from toktalk_jax import motion as mo
from toktalk_jax.flame import model, regions
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


@pytest.fixture(scope="module")
def page(head, tmp_path_factory):
    """(path, [motion, motion], audio) of a page with two tracks of 10 s."""
    tracks = [("prediction", speaking(0)), ("truth <i>", speaking(1))]
    path = tmp_path_factory.mktemp("page") / "watch.html"
    title = 'Say "<hello>" & {{data}}'
    write_page(path, head, tracks, hum(), title=title, info=INFO)
    return path, [motion for _, motion in tracks], hum()


def gaps_mm(head, motion, head_joint="neck"):
    """[T] distance of the inner lip centres by the Python head."""
    points = regions.landmarks_68(head, model.vertices(head, motion, None, head_joint))
    return 1000 * np.linalg.norm(np.asarray(points[:, 62] - points[:, 66]), axis=-1)


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


def test_bundle_was_built_from_the_source_beside_it():
    digest = hashlib.sha256()
    sources = sorted((FOLDER / "source/src").iterdir(), key=lambda path: path.name)
    for path in [*sources, FOLDER / "source/package-lock.json"]:
        digest.update(path.read_bytes())
    first = (FOLDER / "bundle/watch.js").read_text().split("\n", 1)[0]
    assert digest.hexdigest() in first, "run `npm ci && npm run build` in page/source"


@pytest.mark.parametrize(
    ("tracks", "audio", "options", "message"),
    [
        ([], hum(1), {}, "0 tracks came"),
        ([("a", np.zeros((9, 55)))], hum(1), {}, r"shape \(9, 55\).*\[T, 56\]"),
        ([("a", np.zeros((0, 56)))], hum(1), {}, "at least one frame"),
        ([("a", np.full((9, 56), np.nan))], hum(1), {}, "NaN or Inf in 9 of 9"),
        ([("a", np.zeros((9, 56)))] * 3, hum(1), {}, "3 tracks came"),
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
    with pytest.raises(SystemExit, match=r"bad\.npz is not an \.npz file"):
        command.main([str(tmp_path / "bad.npz"), "--out", str(out)])
    with pytest.raises(ValueError, match="holds no take"):
        (tmp_path / "empty.html").write_text("<html></html>")
        read_page(tmp_path / "empty.html")


# Chromium


def start_chromium(folder, width, height, *flags):
    """A headless Chromium with software WebGL, its logs switched on."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new --no-sandbox --disable-dev-shm-usage --disable-quic "
        "--no-first-run --disable-background-networking --disable-component-update "
        "--disable-sync --mute-audio --use-gl=angle --use-angle=swiftshader "
        f"--enable-unsafe-swiftshader --window-size={width},{height}"
    ).split():
        options.add_argument(flag)
    for flag in (f"--user-data-dir={folder}", *flags):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    browser = webdriver.Chrome(options=options, service=Service(driver))
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
    command = "Emulation.setDeviceMetricsOverride"
    browser.execute_cdp_cmd(command, {**metrics, "mobile": width < 600})
    browser.get_log("performance")  # drops what Chromium asked for its own start page
    return browser


def open_page(browser, path):
    browser.get(path.as_uri())
    wait_for(browser, "return window.toktalk && (toktalk.ready || toktalk.error)", 60)
    assert browser.execute_script("return toktalk.error") is None


def wait_for(browser, script, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = browser.execute_script(script)
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{script!r} stayed false for {seconds} s")


def pixels(browser, element_id):
    """[H, W, 3] uint8 of what stands on the screen there."""
    from PIL import Image

    picture = browser.find_element("id", element_id).screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@pytest.fixture(scope="module")
def chromium(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chromium")
    browser = start_chromium(folder, 560, 560)
    try:
        open_page(browser, page[0])
        yield browser
    finally:
        browser.quit()


def test_page_loads_from_a_file_without_error_or_request(chromium, page):
    messages = [
        entry["message"]
        for entry in chromium.get_log("browser")
        # Chromium itself reports that software WebGL reads pixels slowly.
        if "GPU stall" not in entry["message"]
    ]
    assert messages == []
    requests = [
        event["params"]["request"]["url"]
        for event in (
            json.loads(entry["message"])["message"]
            for entry in chromium.get_log("performance")
        )
        if event["method"] == "Network.requestWillBeSent"
        and not event["params"]["documentURL"].startswith("chrome://")
    ]
    assert page[0].as_uri() in requests
    outside = [u for u in requests if not u.startswith(("file:", "blob:", "data:"))]
    assert outside == []
    assert [u for u in requests if u.startswith("file:")] == [page[0].as_uri()]
    title = chromium.find_element("css selector", "h1").text
    assert title == 'Say "<hello>" & {{data}}'
    assert "mel_rvq </script><b>bold</b>" in chromium.find_element("id", "info").text


def test_head_is_painted_and_seek_moves_the_mouth(chromium, page, head):
    _, motions, _ = page
    gaps = [gaps_mm(head, motion) for motion in motions]
    widest, closest = int(np.argmax(gaps[0])), int(np.argmin(gaps[0]))
    frames = sorted({0, 7, FRAMES - 1, widest, closest})
    for frame in frames:
        chromium.execute_script(f"toktalk.seek({frame / mo.FPS})")
        assert chromium.execute_script("return toktalk.frame()") == frame
        for track in (0, 1):
            shown = chromium.execute_script(f"return toktalk.lipGap({track})")
            assert abs(shown - gaps[track][frame]) < 0.2, (frame, track)
    pictures = []
    for frame in (widest, closest):
        chromium.execute_script(f"toktalk.seek({frame / mo.FPS})")
        time.sleep(0.2)
        pictures.append(pixels(chromium, "view").astype(int))
    # Skin is red above blue, the stage is not: both heads stand there, left and right.
    warm = pictures[0][..., 0] - pictures[0][..., 2] > 25
    half = warm.shape[1] // 2
    assert warm[:, :half].mean() > 0.08 and warm[:, half:].mean() > 0.08
    assert (np.abs(pictures[0] - pictures[1]).max(-1) > 30).mean() > 0.01


def test_painted_vertices_are_the_heads_own(chromium, page, head):
    _, motions, _ = page
    frame = 33
    chromium.execute_script(f"toktalk.seek({frame / mo.FPS})")
    chosen = np.linspace(0, len(head.v_template) - 1, 60).astype(int)
    script = "return arguments[0].map((v) => toktalk.vertex(v, 1))"
    shown = np.array(chromium.execute_script(script, chosen.tolist()))
    truth = np.asarray(model.vertices(head, motions[1][frame]))[chosen]
    assert np.abs(shown - truth).max() < 2e-5, "20 um"


def test_between_frames_motion_is_blended(chromium, page, head):
    _, motions, _ = page
    chromium.execute_script(f"toktalk.seek({40.25 / mo.FPS})")
    blend = 0.75 * motions[0][40] + 0.25 * motions[0][41]
    expected = gaps_mm(head, blend[None])[0]
    assert abs(chromium.execute_script("return toktalk.lipGap()") - expected) < 0.05


def test_play_pause_keys_and_end(chromium):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    chromium.execute_script("toktalk.seek(0)")
    chromium.find_element("id", "play").click()
    wait_for(chromium, "return toktalk.time() > 0.6")
    assert chromium.execute_script("return toktalk.hasSound()")
    start, first = time.monotonic(), chromium.execute_script("return toktalk.time()")
    time.sleep(0.7)
    spent = time.monotonic() - start
    moved = chromium.execute_script("return toktalk.time()") - first
    assert abs(moved - spent) < 0.35, "sound and face run in real time"
    chromium.find_element("id", "view").click()
    ActionChains(chromium).send_keys(" ").perform()
    label = chromium.find_element("id", "play").get_attribute("aria-label")
    assert label == "Play"
    paused = chromium.execute_script("return toktalk.time()")
    time.sleep(0.2)
    assert chromium.execute_script("return toktalk.time()") == paused
    frame = chromium.execute_script("toktalk.seek(2); return toktalk.frame()")
    ActionChains(chromium).send_keys(Keys.ARROW_RIGHT).perform()
    assert chromium.execute_script("return toktalk.frame()") == frame + 1
    ActionChains(chromium).send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT).perform()
    assert chromium.execute_script("return toktalk.frame()") == frame - 1
    chromium.execute_script("toktalk.seek(9.8); toktalk.play()")
    wait_for(
        chromium,
        "return document.getElementById('play').getAttribute('aria-label') == 'Play'",
    )
    assert chromium.execute_script("return toktalk.frame()") == FRAMES - 1


def test_mouse_turns_the_head_and_key_turns_it_back(chromium):
    from selenium.webdriver.common.action_chains import ActionChains

    chromium.execute_script("toktalk.seek(1)")
    view = chromium.find_element("id", "view")
    ActionChains(chromium).send_keys("r").perform()
    time.sleep(0.5)
    before = pixels(chromium, "view").astype(int)
    drag = ActionChains(chromium).move_to_element_with_offset(view, -80, 0)
    drag.click_and_hold().move_by_offset(120, 0).release().perform()
    time.sleep(0.6)
    turned = pixels(chromium, "view").astype(int)
    assert (np.abs(turned - before).max(-1) > 25).mean() > 0.05
    ActionChains(chromium).send_keys("r").perform()
    time.sleep(0.6)
    after = pixels(chromium, "view").astype(int)
    assert (np.abs(after - before).max(-1) > 25).mean() < 0.002


def test_phone_width_root_joint_and_blocked_sound(head, tmp_path):
    # Root rotation about the neck's own pivot would differ by centimetres.
    motion = speaking(2, 50)
    path = tmp_path / "phone.html"
    write_page(path, head, [("only", motion)], hum(1), head_joint="root")
    folder = tmp_path / "profile"
    flag = "--autoplay-policy=user-gesture-required"
    browser = start_chromium(folder, 390, 844, flag)
    try:
        open_page(browser, path)
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= 390
        assert not browser.find_elements("id", "info"), "nothing to tell, no card"
        browser.execute_script(f"toktalk.seek({20 / mo.FPS})")
        shown = browser.execute_script("return toktalk.vertex(0)")
        truth = model.vertices(head, motion[20], None, "root")[0]
        np.testing.assert_allclose(shown, np.asarray(truth), atol=2e-5)
        # No gesture: the browser refuses the sound, the face speaks on regardless.
        browser.execute_script("toktalk.seek(0); toktalk.play()")
        wait_for(browser, "return toktalk.time() > 0.5")
        assert not browser.execute_script("return toktalk.hasSound()")
        assert "holds the sound back" in browser.find_element("id", "notice").text
        browser.find_element("id", "view").click()
        wait_for(browser, "return toktalk.hasSound() || !toktalk.time()", 3)
    finally:
        browser.quit()


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
