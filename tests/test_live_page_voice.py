"""A voice into the page, the model's face on it: does the painted mouth follow?"""

import numpy as np
import pytest
import soundfile

from tests.live_servers import serving
from tests.test_live_page import click, open_live
from tests.test_page_browser import start_chromium, wait_for
from toktalk_jax.data.corpora import speech
from toktalk_jax.live import pages
from toktalk_jax.live.engine import Engine

TEXT = (
    "Hello there. My name is Bob, and I love open maps. How about a walk along the "
    "beach tomorrow morning? We may buy some apples on our way home."
)
SECONDS = 12.0
STEP_S = 0.02
LEAST = 60  # pictures; fewer tell no lag


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    """A file for the fake microphone, which plays it over and over."""
    try:
        audio = speech.say(TEXT).audio
    except ImportError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    quiet = np.zeros(8000, np.float32)
    soundfile.write(path, np.concatenate([quiet, audio, quiet]), 16_000, "PCM_16")
    return path


@pytest.fixture(scope="module")
def server():
    """The shipped model at one size, and its page."""
    engine = Engine("small", chunks=[0.4], steps=[5], max_sessions=1)
    dataset = engine.bundle.dataset
    with serving(
        engine,
        ready=False,
        max_sessions=1,
        page=lambda origins: pages.Page(dataset, "", origins),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(wav, tmp_path_factory):
    flags = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav}",
        "--autoplay-policy=no-user-gesture-required",
    )
    browser = start_chromium(tmp_path_factory.mktemp("chromium"), 360, 420, *flags)
    # Few pixels: what is tested is the mouth's time, and software paints slowly.
    coarse = {"width": 360, "height": 420, "deviceScaleFactor": 0.25, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", coarse)
    yield browser
    browser.quit()


def columns(points, *names):
    return (np.array([point[name] for point in points]) for name in names)


def best_lag(times, gaps, heard, energy, most_s=0.5):
    """(correlation, s that gaps lie behind energy) at the best lag.

    Only what was painted counts: energy is read a lag before each picture's time.
    """
    found = []
    for lag in np.arange(-most_s, most_s + 0.01, STEP_S):
        before = np.interp(times - lag, heard, energy)
        found.append((float(np.corrcoef(before, gaps)[0, 1]), round(float(lag), 2)))
    return max(found)


def smooth(values, seconds=0.1):
    width = round(seconds / STEP_S)
    return np.convolve(values, np.ones(width) / width, "same")


def measured(chromium):
    """What was captured and painted: correlations, lags and delay.

    Energy is in dB above -60, smoothed over 0.1 s, as the mouth is.
    """
    painted = chromium.execute_script("return toktalk.trace()")
    captured = chromium.execute_script("return toktalk.captured()")
    painted = [point for point in painted if point["utterance"] == 0]
    at, media, origin, gap = columns(painted, "at", "media", "origin", "gap")
    heard_at, heard, loud = columns(captured, "at", "media", "loudness")
    rate = float(len(painted) / (at[-1] - at[0]))
    if len(painted) < LEAST:
        pytest.skip(f"painted {rate:.1f} pictures a second: too few to tell a lag")
    energy = smooth(np.log10(np.maximum(loud, 1e-3)))
    # By media time: each gap beside the sound that its frame was made from.
    beside = best_lag(media, gap, heard, energy)
    # By the clock: the sound when it was captured, the mouth when it was painted; of
    # the lag, the page's own delay is known and, where it was steady, taken off.
    delay = at - origin - media
    known = float(np.median(delay))
    steady = np.abs(delay - known) < 0.05
    by_clock = best_lag(at[steady] - known, gap[steady], heard_at, energy)
    spread = np.percentile(delay, [5, 95]) - known
    found = {"beside": beside, "by_clock": by_clock, "delay_s": known, "fps": rate}
    dry = chromium.execute_script("return toktalk.dry()")
    return found | {"spread_s": spread.tolist(), "dry": dry}


def check(found):
    for correlation, lag in (found["beside"], found["by_clock"]):
        assert correlation > 0.4 and abs(lag) <= 0.08, found
    assert 0.4 < found["delay_s"] < 2.0, found


def open_page(chromium, server):
    open_live(chromium, f"http://127.0.0.1:{server.port}/")
    # The page itself waits for a server that still compiles.
    wait_for(chromium, "return toktalk.state().session === 'ready'", 120)


@pytest.mark.long  # wants idle cores: where few pictures are painted, none tell a lag
def test_the_painted_mouth_follows_the_microphone(server, chromium):
    open_page(chromium, server)
    click(chromium, "talk")
    wait_for(chromium, f"return toktalk.captured().length > {SECONDS / 0.02}", 60)
    click(chromium, "talk")
    wait_for(chromium, "return !toktalk.state().speaking", 30)
    check(measured(chromium))


@pytest.mark.long
def test_the_painted_mouth_follows_a_file_that_is_heard(server, chromium, wav):
    open_page(chromium, server)
    chromium.execute_script("document.querySelector('[value=file]').click()")
    chromium.find_element("id", "sound").send_keys(str(wav))
    wait_for(chromium, "return !document.getElementById('play').disabled")
    click(chromium, "play")
    wait_for(chromium, "return toktalk.state().speaking", 30)
    wait_for(chromium, "return !toktalk.state().speaking", 60)
    found = measured(chromium)
    check(found)
    # The sound is delayed with the face: nothing moves one against the other.
    assert found["dry"] or np.ptp(found["spread_s"]) < 0.03, found
