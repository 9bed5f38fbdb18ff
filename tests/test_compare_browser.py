"""What Chromium makes of a page of several heads; skips where there is none."""

import base64
import functools
import io
import json

import jax
import numpy as np
import pytest

from tests.test_compare_clips import FRAMES, load_four, write_takes
from tests.test_page_browser import open_page, start_chromium, wait_for
from toktalk_jax import motion as mo
from toktalk_jax.flame import model
from tools import compare_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_four(write_takes(tmp_path_factory.mktemp("takes")))


@pytest.fixture(scope="module")
def chromium(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    path = compare_clips.page(clips, folder / "page.html", "Four takes")
    # Under software WebGL the compositor must not wait for it, or no frame is painted.
    flag = "--disable-gpu-compositing"
    browser = start_chromium(folder / "profile", 390, 844, flag)
    try:
        open_page(browser, path)
        yield browser
    finally:
        browser.quit()


def shown(browser, t, cells=(2, 2)):
    """Pictures [columns, rows, H, W, 4] of the heads' cells at a time."""
    from PIL import Image

    script = "toktalk.seek(arguments[0]); return document.getElementById('view')"
    url = browser.execute_script(f"{script}.toDataURL()", t)
    png = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
    across, down = (size // n for size, n in zip(png.size, cells, strict=True))
    boxes = [
        [
            (x * across, y * down, (x + 1) * across, (y + 1) * down)
            for y in range(cells[1])
        ]
        for x in range(cells[0])
    ]
    return np.array(
        [[np.asarray(png.convert("RGBA").crop(b)) for b in row] for row in boxes]
    ).astype(int)


def choose(browser, mode):
    browser.execute_script(
        "const heat = document.getElementById('heat'); heat.value = arguments[0];"
        "heat.dispatchEvent(new Event('change'))",
        mode,
    )


def test_it_asks_for_nothing_and_tells_what_it_shows(chromium):
    assert [
        entry["message"]
        for entry in chromium.get_log("browser")
        if "GPU stall" not in entry["message"]
    ] == []
    asked = [
        event["params"]["request"]["url"]
        for event in (
            json.loads(entry["message"])["message"]
            for entry in chromium.get_log("performance")
        )
        if event["method"] == "Network.requestWillBeSent"
        and not event["params"]["documentURL"].startswith("chrome://")
    ]
    assert asked and all(u.startswith(("file:", "blob:", "data:")) for u in asked)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
    label = chromium.find_element("id", "view").get_attribute("aria-label")
    assert "first, truth (truth), jaw, last" in label
    label = chromium.find_element("id", "curves").get_attribute("aria-label")
    assert "Lip vertex error" in label and "Mouth gap" in label
    told = chromium.find_element("id", "info").text
    assert "Against truth" in told and "lve_mm" in told


def test_all_heads_hold_the_frame_of_the_sound(chromium, clips):
    """Painted frames while it plays, and the vertices of the one it stops at."""
    script = """
      window.seen = [];
      const look = () => {
        if (toktalk.hasSound()) window.seen.push(toktalk.painted());
        requestAnimationFrame(look);
      };
      look();
      const speed = document.getElementById("speed");
      speed.value = "0.25";
      speed.dispatchEvent(new Event("change"));
    """
    chromium.execute_script(script)
    # A slow machine paints few of four heads before the sound is over: play it again.
    for _ in range(6):
        chromium.execute_script("toktalk.seek(0); window.seen = []")
        chromium.find_element("id", "play").click()
        over = f"toktalk.time() > {(FRAMES - 1) / mo.FPS}"
        wait_for(chromium, f"return window.seen.length > 4 || {over}", 60)
        chromium.execute_script("toktalk.pause()")
        if chromium.execute_script("return window.seen.length") > 4:
            break
    seen = np.array(chromium.execute_script("return window.seen"))
    assert (np.diff(seen[:, 0]) >= 0).all() and seen[-1, 0] > seen[0, 0]
    np.testing.assert_array_equal(seen[:, 1], np.floor(seen[:, 0] * mo.FPS + 1e-6))
    vertices = jax.jit(model.vertices)
    for t in (None, 0.999 / mo.FPS, 17.6 / mo.FPS, 2 * FRAMES / mo.FPS):
        if t is not None:
            chromium.execute_script("toktalk.seek(arguments[0])", t)
        wait_for(chromium, "return toktalk.painted()[0] === toktalk.time()")
        frame = min(
            int(chromium.execute_script("return toktalk.time()") * mo.FPS + 1e-6), 39
        )
        assert chromium.execute_script("return toktalk.frame()") == frame
        chosen = np.linspace(0, len(clips.head.v_template) - 1, 30).astype(int)
        script = "return arguments[0].map((v) => toktalk.vertex(v, arguments[1]))"
        posed = np.asarray(vertices(clips.head, clips.motions[:, frame]))[:, chosen]
        for n in range(4):
            own = np.array(chromium.execute_script(script, chosen.tolist(), n))
            assert np.abs(own - posed[n]).max() < 2e-5, (t, n)


def test_numbers_and_clicks_on_the_curves(chromium, clips):
    frame = 23
    chromium.execute_script("toktalk.seek(arguments[0])", (frame + 0.5) / mo.FPS)
    told = chromium.find_element("id", "legend").text
    measured = clips.compared.curves
    for n in (0, 2, 3):
        assert f"lip error {measured.lip_mm[n, frame]:.1f} mm" in told
    for n in range(4):
        assert f"gap {measured.gap_mm[n, frame]:.1f} mm" in told
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = chromium.find_element("id", "curves")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(chromium).move_to_element(canvas).click().perform()
    assert abs(chromium.execute_script("return toktalk.time()") - 0.8) < 0.02
    chromium.execute_script("scrollTo(0, 0)")


def test_heat_is_the_error_and_lies_on_the_moved_jaw(chromium, clips):
    frame = 9
    plain = shown(chromium, frame / mo.FPS)
    choose(chromium, "frame")
    rest = functools.partial(model.vertices, pose=False)
    faces = np.asarray(jax.jit(rest)(clips.head, clips.motions[:, frame]))
    apart = 1e3 * np.linalg.norm(faces - faces[1], axis=-1)
    for n in (0, 2, 3):
        worn = chromium.execute_script("return toktalk.heat(arguments[0])", n)
        np.testing.assert_allclose(worn, apart[n], atol=0.03)
    warm = shown(chromium, frame / mo.FPS)
    # Cells: first above jaw on the left, truth above last on the right. The truth keeps
    # its skin.
    np.testing.assert_array_equal(warm[1, 0], plain[1, 0])
    jaw = warm[0, 1]
    solid = jaw[..., 3] > 250
    green = np.where(solid, jaw[..., 1], 0)
    rows = np.flatnonzero(solid.any(1))
    middle = (rows[0] + rows[-1]) // 2
    low = green[middle:].max()
    high = green[rows[0] + 4 : rows[0] + (rows[-1] - rows[0]) // 3].max()
    assert low > 110 and high < 70, "the chin glows, the forehead does not"
    scale = chromium.find_element("id", "scale")
    frame_mm, mean_mm = compare_clips.comparison.ceilings(clips.compared)
    assert f"{frame_mm:g}+ mm" in scale.text
    choose(chromium, "mean")
    worn = chromium.execute_script("return toktalk.heat(2)")
    np.testing.assert_allclose(worn, clips.compared.curves.vertex_mm[2], atol=1e-3)
    assert f"to {mean_mm:g} mm" in scale.get_attribute("aria-label")


def test_a_key_turns_the_heat_map_round(chromium):
    from selenium.webdriver.common.action_chains import ActionChains

    choose(chromium, "off")
    assert not chromium.find_element("id", "scale").is_displayed()
    read = "return document.getElementById('heat').value"
    seen = []
    for _ in range(3):
        chromium.find_element("css selector", "h1").click()
        ActionChains(chromium).send_keys("h").perform()
        seen.append(chromium.execute_script(read))
    assert seen == ["frame", "mean", "off"]
