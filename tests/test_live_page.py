"""The live page: what it is served with, and what Chromium makes of it."""

import asyncio
import gzip
import json
import urllib.request

import numpy as np
import pytest
from starlette.requests import Request

from tests import live_stub
from tests.live_servers import until
from tests.test_page_browser import gaps_mm, start_chromium, wait_for
from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.flame.assets import load_head
from toktalk_jax.live import pages

STATUS = "return document.getElementById('status').textContent"


@pytest.fixture(scope="module")
def stub():
    with live_stub.serving() as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chromium")
    flags = (
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    )
    browser = start_chromium(folder, 360, 420, *flags)
    downloads = folder / "downloads"
    downloads.mkdir()
    allow = {"behavior": "allow", "downloadPath": str(downloads)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    browser.downloads = downloads
    coarse = {"width": 360, "height": 420, "deviceScaleFactor": 0.25, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", coarse)
    yield browser
    browser.quit()


def open_live(browser, url):
    browser.get(url)
    wait_for(browser, "return window.toktalk && (toktalk.ready || toktalk.error)", 90)
    assert browser.execute_script("return toktalk.error") is None
    # The first pictures take software seconds; what is said meanwhile nobody sees.
    browser.execute_async_script(
        "const done = arguments[0]; let left = 5;"
        "const next = () => (left-- ? requestAnimationFrame(next) : done());"
        "next();"
    )


def click(browser, name):
    """As a keyboard does: nothing has to be scrolled into view."""
    browser.execute_script("document.getElementById(arguments[0]).click()", name)


def choose(browser, mode):
    browser.execute_script(f"document.querySelector('[value={mode}]').click()")
    wait_for(browser, "return toktalk.state().session === 'ready'")


def text_of(browser, name):
    script = "return document.getElementById(arguments[0]).textContent"
    return browser.execute_script(script, name)


def fetch(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.urlopen(request, timeout=90)


def test_x4_every_file_comes_with_the_strict_policy(stub):
    for path in (*pages.FILES, "/head.json"):
        with fetch(stub.url.rstrip("/") + path) as answer:
            plain, found = answer.read(), answer.headers
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in found["Content-Security-Policy"].split(";")
        )
        assert policy.pop("connect-src").startswith("'self' ws://127.0.0.1:")
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "data: blob:",
            "media-src": "blob:",
            "worker-src": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert found["X-Content-Type-Options"] == "nosniff"
        assert found["Referrer-Policy"] == "no-referrer"
        assert found["Permissions-Policy"].startswith("microphone=(self)")
        with fetch(stub.url.rstrip("/") + path, **{"Accept-Encoding": "gzip"}) as small:
            assert gzip.decompress(small.read()) == plain
        with pytest.raises(urllib.error.HTTPError) as same:
            fetch(stub.url.rstrip("/") + path, **{"If-None-Match": found["ETag"]})
        assert same.value.code == 304


def test_a_head_that_the_model_does_not_move_is_told():
    page = pages.Page({"face_model": "flame2023", "head_joint": "neck"})
    with pytest.raises(ValueError, match="face model 'flame2023'"):
        page._head.result(90)


def test_x2_a_head_of_the_user_is_given_for_the_token_only():
    dataset = {"face_model": "stand_in", "head_joint": "neck"}
    page = pages.Page(dataset, "", ["http://127.0.0.1:1"], "secret")
    cases = [
        (401, {}),
        (401, {"Authorization": "Bearer wrong"}),
        (403, {"Authorization": "Bearer secret", "Origin": "http://evil.example"}),
        (200, {"Authorization": "Bearer secret", "Origin": "http://127.0.0.1:1"}),
    ]
    for status, given in cases:
        raw = [(k.lower().encode(), v.encode()) for k, v in given.items()]
        request = Request({"type": "http", "headers": raw})
        answer = asyncio.run(page._send_head(request))
        assert answer.status_code == status
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        told = json.loads(answer.body)
        assert list(told)[0] == ("fps" if status == 200 else "error")


def test_x4_only_its_own_origin_is_asked_and_nothing_is_refused(stub, chromium):
    open_live(chromium, stub.url)
    wait_for(chromium, "return toktalk.state().session === 'ready'")
    told = [e["message"] for e in chromium.get_log("browser")]
    assert [m for m in told if "GPU stall" not in m] == []
    events = [
        json.loads(e["message"])["message"] for e in chromium.get_log("performance")
    ]
    asked = [
        event["params"].get("url") or event["params"]["request"]["url"]
        for event in events
        if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
        and not event["params"].get("documentURL", "").startswith("chrome://")
    ]
    socket = stub.url.replace("http", "ws")
    own = (stub.url, socket, "data:", f"blob:{stub.url}")
    assert stub.url + "static/live.js" in asked and socket + "live" in asked
    assert [url for url in asked if not url.startswith(own)] == []


def upload(browser, field, path, data):
    path.write_bytes(data)
    browser.find_element("id", field).send_keys(str(path))


def test_b6_names_are_shown_as_text(stub, chromium, tmp_path):
    open_live(chromium, stub.url)
    wait_for(chromium, "return toktalk.state().session === 'ready'")
    assert text_of(chromium, "style").startswith(live_stub.NAUGHTY)
    name = "<img src=x onerror=hacked=1>"
    upload(chromium, "clip", tmp_path / f"{name}.npz", b"no clip")
    wait_for(chromium, "return !document.getElementById('settings-fault').hidden")
    assert live_stub.NAUGHTY in text_of(chromium, "settings-fault")
    assert f"clip: {name}.npz" in text_of(chromium, "style")
    upload(chromium, "sound", tmp_path / f"{name}.wav", b"no sound")
    wait_for(chromium, "return !document.getElementById('notice').hidden")
    assert f"{name}.wav is no sound" in text_of(chromium, "notice")
    take(chromium, live_stub.NAUGHTY)
    assert text_of(chromium, "takes").startswith(live_stub.NAUGHTY)
    chromium.execute_script(
        "[...document.querySelectorAll('#takes button')][2].click()"
    )
    wait_for(chromium, "return !document.getElementById('takes-fault').hidden")
    assert (
        text_of(chromium, "takes-fault") == f"No csv: no curves of {live_stub.NAUGHTY}"
    )
    assert chromium.execute_script("return document.images.length") == 0
    assert chromium.execute_script("return window.hacked") is None


def take(browser, name):
    """Record some tenths of a second."""
    browser.execute_script(
        "document.getElementById('take-name').value = arguments[0]", name
    )
    click(browser, "record")
    wait_for(
        browser, "return document.getElementById('record').textContent.match(/Stop/)"
    )
    browser.execute_script("return new Promise((done) => setTimeout(done, 300))")
    click(browser, "record")


def test_settings_are_in_force_when_the_server_says_so(stub, chromium):
    open_live(chromium, stub.url)
    wait_for(chromium, "return toktalk.state().session === 'ready'")
    chromium.execute_script(
        "const slider = document.getElementById('strength'); slider.value = 1.5;"
        "slider.dispatchEvent(new Event('input'))"
    )
    assert text_of(chromium, "strength-value") == "1.50"
    waits = "return document.querySelector('.waits') !== null"
    assert chromium.execute_script(waits) or stub.kinds()[-1] == "set"
    wait_for(chromium, "return document.querySelector('.waits') === null")
    assert stub.heard[-1] == {"type": "set", "style_strength": 1.5}


@pytest.mark.long  # wants a core of its own: pictures painted late blur the take
def test_it_says_a_text_on_one_clock_and_keeps_the_take(stub, chromium):
    open_live(chromium, stub.url)
    choose(chromium, "text")
    assert stub.heard[-1]["input"] == {"kind": "text"}
    chromium.execute_script("document.getElementById('text').value = 'Hum'")
    click(chromium, "record")
    click(chromium, "say")
    wait_for(chromium, "return toktalk.state().speaking")
    wait_for(chromium, "return !toktalk.state().speaking", 30)
    click(chromium, "record")
    assert stub.heard[-2:] == [{"type": "say", "text": "Hum"}, {"type": "end"}]
    # Equation 7 in numbers and words.
    shown = [text_of(chromium, f"said-{name}") for name in ("ttftb", "sum", "first")]
    assert shown == ["40 ms", "130 ms", "152 ms"]
    assert "The face waits 30 ms for sound; 2.0 s" in text_of(chromium, "said-waits")
    # What was painted is what the frames say of its media time.
    trace = chromium.execute_script("return toktalk.trace()")
    assert len(trace) >= 3 and trace[-1]["media"] > 0.5
    media = np.array([point["media"] for point in trace])
    found = np.array([point["gap"] for point in trace])
    below = np.minimum(np.floor(media * mo.FPS), 49).astype(int)
    rows = live_stub.motion(np.arange(51))[[below, np.minimum(below + 1, 49)]]
    share = np.clip(media * mo.FPS - below, 0, 1)[:, None].astype("f4")
    wanted = gaps_mm(load_head(), (1 - share) * rows[0] + share * rows[1])
    np.testing.assert_allclose(found, wanted, atol=0.02, err_msg=str(media))
    # Time goes on as the clock does, whatever the paint's pace was.
    clock = np.array([point["at"] for point in trace]) - media
    running = (media > 0.1) & (media < 1.9)
    if chromium.execute_script("return toktalk.dry()") == 0:
        assert np.ptp(clock[running]) < 0.05
    _keeps(chromium)


def _keeps(chromium):
    names = ["npz", "wav"]
    for n, name in enumerate(names):
        chromium.execute_script(
            f"document.querySelectorAll('#takes button')[{n}].click()"
        )
        until(lambda name=name: (chromium.downloads / f"take-1.{name}").exists(), 20)
    kept = takes.read(chromium.downloads / "take-1.npz")
    assert kept.fps == 25 and kept.head_joint == "neck" and kept.chunk_frames == 10
    assert kept.face_model == "stand_in" and kept.sample_rate == live_stub.RATE
    assert kept.facts["checkpoint"] == "abc"
    assert len(kept.audio) == len(kept.motion) * live_stub.RATE // mo.FPS
    assert np.isclose(kept.motion[:, mo.JAW.start].max(), 0.24, atol=0.02)
    # Sound and mouth of the take belong together, as they were heard and shown.
    loud = np.abs(kept.audio.reshape(len(kept.motion), -1)).max(1)
    opened = kept.motion[:, mo.JAW.start]
    assert np.corrcoef(loud, opened)[0, 1] > 0.9
    import soundfile

    samples, rate = soundfile.read(chromium.downloads / "take-1.wav", dtype="float32")
    assert rate == live_stub.RATE
    np.testing.assert_allclose(samples, kept.audio, atol=1e-4)


def test_escape_stops_what_is_said(stub, chromium):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_live(chromium, stub.url)
    choose(chromium, "text")
    chromium.execute_script("document.getElementById('text').value = 'Hum'")
    click(chromium, "say")
    wait_for(chromium, "return toktalk.state().speaking")
    ActionChains(chromium).send_keys(Keys.ESCAPE).perform()
    wait_for(chromium, f"{STATUS} === 'Ready'")
    until(lambda: stub.kinds()[-1] == "cancel")
    wait_for(chromium, "return toktalk.gap() < 1")
    # The next one is said and shown.
    click(chromium, "say")
    wait_for(chromium, "return toktalk.state().speaking && toktalk.gap() > 3")


@pytest.mark.long
def test_the_space_bar_talks_while_it_is_held(stub, chromium):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_live(chromium, stub.url)
    wait_for(chromium, f"{STATUS} === 'Ready'")
    assert stub.heard[-1]["input"]["kind"] == "pcm"
    before = stub.samples
    ActionChains(chromium).key_down(Keys.SPACE).perform()
    wait_for(chromium, f"{STATUS}.startsWith('Listening')")
    rate = stub.heard[-1]["input"]["rate_hz"]
    until(lambda: stub.samples - before > rate / 2)
    ActionChains(chromium).key_up(Keys.SPACE).perform()
    until(lambda: stub.kinds()[-1] == "end")
    wait_for(chromium, f"{STATUS} === 'Ready'")
    blocks = chromium.execute_script("return toktalk.captured()")
    found = np.diff([block["at"] for block in blocks])
    np.testing.assert_allclose(found, 0.02, atol=1e-6)  # none lost, none twice


def test_it_tells_that_it_waits_and_comes_back(stub, chromium):
    stub.busy = 1000
    open_live(chromium, stub.url)
    wait_for(chromium, f"{STATUS}.startsWith('The server is busy')")
    stub.busy = 0
    wait_for(chromium, f"{STATUS} === 'Ready'")
    stub.cut()
    wait_for(chromium, f"{STATUS}.startsWith('Disconnected')")
    wait_for(chromium, f"{STATUS} === 'Ready'")


def test_it_asks_for_the_token(stub, chromium):
    stub.token = "a-token"
    try:
        open_live(chromium, stub.url)
        wait_for(chromium, "return !document.getElementById('door').hidden")
        assert "refused" in text_of(chromium, "status")
        chromium.find_element("id", "token").send_keys("a-token\n")
        wait_for(chromium, f"{STATUS} === 'Ready'")
        assert chromium.execute_script("return document.getElementById('door').hidden")
    finally:
        stub.token = ""


def test_a_head_that_needs_the_token_is_worn_after_it(chromium):
    with live_stub.serving(token="a-token") as server:
        chromium.get(server.url)
        wait_for(chromium, "return !document.getElementById('door').hidden")
        assert not chromium.execute_script("return toktalk.ready || toktalk.error")
        chromium.find_element("id", "token").send_keys("a-token\n")
        wait_for(chromium, "return toktalk.ready", 90)
        assert chromium.execute_script(
            "return document.getElementById('loading').hidden"
        )
