"""What Chromium makes of the page; skips where there is none."""

import base64
import io
import json
import shutil
import time

import jax
import numpy as np
import pytest

from tests.test_page import FRAMES, hum, speaking, write_example
from toktalk_jax import motion as mo
from toktalk_jax.flame import model, regions
from toktalk_jax.flame.assets import Marks, load_head
from toktalk_jax.page import write_page


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def page(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "watch.html"
    return path, *write_example(head, path)


def gaps_mm(head, motion, head_joint="neck"):
    """[T] distance of the inner lip centres by the Python head."""
    points = regions.landmarks_68(head, model.vertices(head, motion, None, head_joint))
    return 1000 * np.linalg.norm(np.asarray(points[:, 62] - points[:, 66]), axis=-1)


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


def painted(browser, t):
    """[H, W, 4] int of the canvas at time t, halved: fine edges do not count."""
    from PIL import Image

    script = "toktalk.seek(arguments[0]); return document.getElementById('view')"
    url = browser.execute_script(f"{script}.toDataURL()", t)
    png = base64.b64decode(url.split(",", 1)[1])
    picture = Image.open(io.BytesIO(png)).convert("RGBA").resize((240, 120))
    return np.asarray(picture).astype(int)


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
    open_mouth, shut = (painted(chromium, f / mo.FPS) for f in (widest, closest))
    # Skin is red above blue and opaque: both heads stand there, left and right.
    warm = (open_mouth[..., 0] - open_mouth[..., 2] > 25) & (open_mouth[..., 3] > 200)
    assert warm[:, :120].mean() > 0.1 and warm[:, 120:].mean() > 0.1
    assert (open_mouth[..., 3] == 0).mean() > 0.2, "nothing but heads is painted"
    assert (np.abs(open_mouth - shut).max(-1) > 30).mean() > 0.01


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
    script = """
      const done = arguments[0];
      const now = () => [performance.now() / 1000, toktalk.time()];
      const from = now();
      setTimeout(() => done(now().map((t, i) => t - from[i])), 700);
    """
    spent, moved = chromium.execute_async_script(script)
    assert abs(moved - spent) < 0.25, "sound and face run in real time"
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


@pytest.mark.long
def test_mouse_and_keys_turn_the_head_and_back(chromium):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def differs(one, other):
        return (np.abs(one - other).max(-1) > 40).mean()

    view = chromium.find_element("id", "view")
    ActionChains(chromium).send_keys("r").perform()
    before = painted(chromium, 1)
    drag = ActionChains(chromium).move_to_element_with_offset(view, -80, 0)
    drag.click_and_hold().move_by_offset(120, 0).release().perform()
    assert differs(painted(chromium, 1), before) > 0.05
    ActionChains(chromium).send_keys("r").perform()
    assert differs(painted(chromium, 1), before) < 0.005
    # By keys alone: the arrows turn it while it has the focus, and only then.
    chromium.execute_script("document.getElementById('view').focus()")
    for keys in (Keys.ARROW_RIGHT * 3, Keys.ARROW_DOWN * 2, "+" * 3):
        ActionChains(chromium).send_keys("r").perform()
        ActionChains(chromium).send_keys(keys).perform()
        assert chromium.execute_script("return toktalk.frame()") == mo.FPS  # no seek
        assert differs(painted(chromium, 1), before) > 0.03
    ActionChains(chromium).send_keys("r").perform()
    assert differs(painted(chromium, 1), before) < 0.005
    chromium.execute_script("document.activeElement.blur()")


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """Chromium as wide as a phone, where no sound starts without a gesture."""
    flag = "--autoplay-policy=user-gesture-required"
    folder = tmp_path_factory.mktemp("phone")
    browser = start_chromium(folder, 390, 844, flag)
    yield browser
    browser.quit()


@pytest.mark.long
@pytest.mark.parametrize("joint", ["neck", "root"])
def test_bare_head_on_a_phone(phone, head, tmp_path, joint):
    # As FLAME's own file: no groups, no landmarks, correctives on every joint.
    rng = np.random.default_rng(3)
    noise = 3e-4 * rng.standard_normal(head.posedirs.shape)
    bare = head.replace(
        posedirs=jax.numpy.asarray(noise, "f4"),
        marks=Marks("bare", {"skin": np.arange(len(head.v_template))}, {}),
    )
    motion = speaking(2, 50)
    path = tmp_path / "phone.html"
    write_page(path, bare, [("only", motion)], hum(1), head_joint=joint)
    open_page(phone, path)
    assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
    assert not phone.find_elements("id", "info"), "nothing to tell, no card"
    assert phone.execute_script("return toktalk.lipGap()") is None
    phone.execute_script(f"toktalk.seek({20 / mo.FPS})")
    chosen = np.linspace(0, len(head.v_template) - 1, 40).astype(int)
    script = "return arguments[0].map((v) => toktalk.vertex(v))"
    shown = phone.execute_script(script, chosen.tolist())
    truth = model.vertices(bare, motion[20], None, joint)[chosen]
    np.testing.assert_allclose(shown, np.asarray(truth), atol=2e-5)


@pytest.mark.long
def test_face_moves_where_sound_is_blocked(phone, page):
    open_page(phone, page[0])
    # No gesture: the browser refuses the sound, the face speaks on regardless.
    phone.execute_script("toktalk.play()")
    wait_for(phone, "return toktalk.time() > 0.5")
    assert not phone.execute_script("return toktalk.hasSound()")
    assert "holds the sound back" in phone.find_element("id", "notice").text
    phone.find_element("id", "view").click()
    wait_for(phone, "return toktalk.hasSound()")
    assert phone.execute_script("return toktalk.time()") > 0.5
    assert not phone.find_element("id", "notice").is_displayed()
    phone.execute_script("toktalk.pause()")
