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
SECONDS = 9.0
STEP_S = 0.02
LEAST_FPS = 6.0


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


def best_lag(energy, gap, most_s=0.5):
    """(correlation, s that gap lies behind energy) at the best lag; one grid."""
    found = []
    for lag in range(-round(most_s / STEP_S), round(most_s / STEP_S) + 1):
        one = energy[max(0, -lag) : len(energy) - max(0, lag)]
        other = gap[max(0, lag) : len(gap) - max(0, -lag)]
        found.append((np.corrcoef(one, other)[0, 1], lag * STEP_S))
    return max(found)


def smooth(values, seconds=0.1):
    width = round(seconds / STEP_S)
    return np.convolve(values, np.ones(width) / width, "same")


def test_the_painted_mouth_follows_the_microphone(server, chromium, record_property):
    open_live(chromium, f"http://127.0.0.1:{server.port}/")
    # The page itself waits for a server that still compiles.
    wait_for(chromium, "return toktalk.state().session === 'ready'", 120)
    click(chromium, "talk")
    try:
        wait_for(chromium, f"return toktalk.captured().length > {SECONDS / 0.02}", 40)
    except AssertionError:
        print(chromium.execute_script("return [toktalk.captured().length, toktalk.trace().length, toktalk.state(), document.getElementById('notice').textContent, toktalk.clock(), toktalk.ledger().chunks.length]"))
        print(chromium.get_log("browser"))
        raise
    click(chromium, "talk")
    wait_for(chromium, "return !toktalk.state().speaking", 30)
    painted = chromium.execute_script("return toktalk.trace()")
    captured = chromium.execute_script("return toktalk.captured()")
    painted = [point for point in painted if point["utterance"] == 0]
    at, media, origin, gap = columns(painted, "at", "media", "origin", "gap")
    heard_at, heard, loud = columns(captured, "at", "media", "loudness")
    rate = len(painted) / (at[-1] - at[0])
    if rate < LEAST_FPS:
        pytest.skip(f"painted {rate:.1f} pictures a second: too few to tell a lag")
    energy = smooth(np.log10(np.maximum(loud, 1e-3)))
    # By media time: each gap beside the sound that its frame was made from.
    grid = np.arange(media.min(), min(media.max(), heard.max()), STEP_S)
    beside = best_lag(np.interp(grid, heard, energy), np.interp(grid, media, gap))
    # By the clock: the sound when it was captured, the mouth when it was painted; of
    # the lag, the page's own constant delay is known and taken off.
    delay = at - origin - media
    known = float(np.median(delay))
    grid = np.arange(at[0], at[-1], STEP_S)
    by_clock = best_lag(
        np.interp(grid, heard_at + known, energy), np.interp(grid, at, gap)
    )
    facts = {"beside": beside, "by_clock": by_clock, "delay_s": known, "fps": rate}
    record_property("found", facts)
    print(facts, "spread", np.percentile(delay, [5, 95]))
    assert beside[0] > 0.4 and abs(beside[1]) <= 0.08, facts
    assert by_clock[0] > 0.4 and abs(by_clock[1]) <= 0.08, facts
    assert 0.4 < known < 2.0, facts
