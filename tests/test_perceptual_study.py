"""The perceptual study: known preferences are recovered, answers are never lost."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from scipy import stats

from tests.conftest import ROOT
from tools import perceptual_study, study_results, study_server

METHODS = ["ours", "plain", "mean"]


def folders(tmp_path, clips=("one", "two", "three")):
    made = {}
    for name in ("truth", *METHODS):
        folder = tmp_path / name
        for clip in clips:
            (folder / clip).mkdir(parents=True)
            np.savez(
                folder / clip / "motion.npz",
                motion=np.zeros((10, 56), "f4"),
                audio=np.zeros(6400, np.int16),
            )
        made[name] = folder
    return made


@pytest.fixture
def study(tmp_path):
    """(folder, study) with files in place of videos."""
    made = folders(tmp_path / "takes")
    truth = made.pop("truth")
    render = lambda path, take, sound, head, size: path.write_bytes(b"mp4")  # noqa: E731
    out = tmp_path / "study"
    return out, perceptual_study.make(out, truth, made, render=render)


# --- statistics --------------------------------------------------------------------


def test_a_known_preference_is_recovered():
    strengths = {"ours": 1.0, "plain": 0.4, "mean": -0.5}
    result = study_results.analyse(
        study_results.simulate(strengths, raters=20, clips=15), METHODS
    )
    assert result.methods == ["ours", "plain", "mean"]
    assert result.p < 1e-6 and result.p_raters < 1e-3
    assert all(pair.p < 0.05 and pair.preferred > 0.5 for pair in result.pairs)
    best = next(p for p in result.pairs if (p.better, p.worse) == ("ours", "mean"))
    # Plackett and Luce: the odds of a pair are exp of the strengths' difference.
    assert best.preferred == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.06)
    assert result.low[0] < result.ranks[0] < result.high[0] < result.low[2]
    np.testing.assert_allclose(result.shares.sum(1), 1)
    assert sum(result.ranks) == pytest.approx(6)


def test_no_preference_is_found_as_often_as_the_level_says():
    found = 0
    for seed in range(200):
        answers = study_results.simulate(dict.fromkeys(METHODS, 0.0), 5, 6, seed)
        found += study_results.analyse(answers, METHODS).p < 0.05
    assert found <= 20  # 5 % of 200, and room for chance


def test_rankings_of_one_rater_are_not_many_raters():
    """Four of six always rank a first, two last: certain by 90 rankings, not by six."""
    mine, theirs = {"a": 1, "b": 2, "c": 3}, {"a": 3, "b": 2, "c": 1}
    answers = [(f"r{k}", mine if k < 4 else theirs) for k in range(6)] * 15
    result = study_results.analyse(answers, ["a", "b", "c"])
    best = next(p for p in result.pairs if (p.better, p.worse) == ("a", "c"))
    assert best.p < 0.01 < 0.05 < best.p_raters and result.p_raters > 0.05
    differences = [-2.0] * 4 + [2.0] * 2
    expected = stats.wilcoxon(differences).pvalue
    assert best.p_raters == pytest.approx(min(3 * expected, 1))
    alone = study_results.analyse([("r", mine)] * 9, ["a", "b", "c"])
    assert {pair.p_raters for pair in alone.pairs} == {None}
    assert "| a | c | 100 % | " in study_results.to_markdown({"q": alone})
    # Raters who differ among themselves alike prefer nobody, and SciPy's NaN is none.
    tied = [(f"r{k}", order) for k in range(3) for order in (mine, theirs)]
    even = study_results.analyse(tied, ["a", "b", "c"])
    assert {pair.p_raters for pair in even.pairs} == {1.0}


def test_friedman_and_holm_by_hand():
    """Ten raters of one mind: chi2 = 12 n / (k (k + 1)) sum (mean rank - 2)^2 = 20."""
    answers = [(f"r{i}", {"a": 1, "b": 2, "c": 3}) for i in range(10)]
    result = study_results.analyse(answers, ["c", "b", "a"])
    assert result.methods == ["a", "b", "c"] and result.chi2 == pytest.approx(20)
    assert result.p == pytest.approx(stats.chi2.sf(20, 2))
    assert study_results.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert study_results.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("answers", "methods", "message"),
    [
        ([("r", {"a": 1, "b": 2})] * 2, ["a", "b"], "three methods"),
        ([("r", {"a": 1, "b": 2, "c": 3})], ["a", "b", "c"], "two rankings"),
        ([("r", {"a": 1, "b": 1, "c": 3})] * 2, ["a", "b", "c"], "each of .1, 2, 3."),
        ([("r", {"a": 1, "b": 2, "d": 3})] * 2, ["a", "b", "c"], "ranks"),
    ],
)
def test_rankings_that_are_none(answers, methods, message):
    with pytest.raises(ValueError, match=message):
        study_results.analyse(answers, methods)


def test_power_grows_with_raters():
    few, many = (
        perceptual_study.power(raters, 5, 0.4, trials=60) for raters in (2, 20)
    )
    assert many > few + 0.2


# --- the study's folder ------------------------------------------------------------


def test_videos_tell_no_method_and_are_kept(study, tmp_path):
    out, made = study
    assert sorted(made["methods"]) == sorted(METHODS) and len(made["clips"]) == 3
    for videos in made["clips"].values():
        assert set(videos) == {"truth", *METHODS}
        assert not any(name in video for name, video in videos.items())
        assert all((out / video).is_file() for video in videos.values())
    takes = tmp_path / "takes"
    methods = {name: takes / name for name in METHODS}

    def fail(*_):
        raise AssertionError("rendered again")

    assert perceptual_study.make(out, takes / "truth", methods, render=fail) == made
    with pytest.raises(ValueError, match="another study .* other seed; choose"):
        perceptual_study.make(out, takes / "truth", methods, seed=1, render=fail)
    # Videos of takes that have changed since would be answered in their name.
    changed = next(methods["ours"].rglob("*.npz"))
    before = changed.read_bytes()
    arrays = dict(np.load(changed))
    np.savez(changed, **arrays | {"motion": arrays["motion"] + 0.1})
    with pytest.raises(ValueError, match="other takes; choose another folder"):
        perceptual_study.make(out, takes / "truth", methods, render=fail)
    changed.write_bytes(before)


def test_bad_folders(tmp_path):
    made = folders(tmp_path)
    truth = made.pop("truth")
    with pytest.raises(ValueError, match="three or more"):
        perceptual_study.make(tmp_path / "s", truth, {"a": made["ours"]})
    with pytest.raises(ValueError, match="at most 8"):
        perceptual_study.make(
            tmp_path / "s", truth, dict.fromkeys("abcdefghi", made["ours"])
        )
    twice = [f"--method={m}={made['ours']}" for m in ("a", "b", "c", "a")]
    with pytest.raises(SystemExit, match="--method a= comes 2 times"):
        perceptual_study.main(["make", str(tmp_path / "s"), "--truth=x", *twice])
    for name, arrays, message in (
        ("fast", {"fps": 30.0}, "30 frames a second; expected 25"),
        ("short", {}, "has 7 frames, the recording 10"),
        ("flame", {"face_model": "flame"}, "'flame', but the head is 'stand_in'; --h"),
    ):
        odd = tmp_path / name
        odd.mkdir()
        frames = 7 if name == "short" else 10
        np.savez(odd / "one.npz", motion=np.zeros((frames, 56), "f4"), **arrays)
        with pytest.raises(ValueError, match=message):
            perceptual_study.make(tmp_path / "s", truth, made | {"x": odd})
    mute = tmp_path / "mute"
    mute.mkdir()
    np.savez(mute / "one.npz", motion=np.zeros((10, 56), "f4"))
    with pytest.raises(ValueError, match="holds no sound"):
        perceptual_study.make(tmp_path / "s", mute, made)
    with pytest.raises(ValueError, match="even number"):
        perceptual_study.make(tmp_path / "s", truth, made, size=65)
    assert not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match="no folder of takes"):
        perceptual_study.make(tmp_path / "s", tmp_path / "nowhere", made)
    other = tmp_path / "other"
    (other / "four").mkdir(parents=True)
    np.savez(other / "four/motion.npz", motion=np.zeros((10, 56), "f4"))
    with pytest.raises(ValueError, match="no clip is in all folders"):
        perceptual_study.make(tmp_path / "s", truth, made | {"x": other})
    with pytest.raises(SystemExit, match="no study at"):
        perceptual_study.main(["analyse", str(tmp_path)])


def test_a_broken_database_is_told_in_one_line(study):
    folder, _ = study
    (folder / "answers.sqlite").write_text("not a database, but as long as its header")
    with pytest.raises(SystemExit, match="perceptual_study: file is not a database"):
        perceptual_study.main(["analyse", str(folder)])


def test_ten_ranks_are_ten_places():
    """As text, 10 comes before 2."""
    methods = [f"m{k}" for k in range(10)]
    page = {"shown": methods, "methods": methods}
    given = {"q": list(range(10, 0, -1))}
    found = study_server.check({"questions": ["q"]}, page, given)
    assert found["q"] == {f"m{k}": 10 - k for k in range(10)}


def test_orders_differ_by_rater_and_never_by_call(study):
    _, made = study
    plans = {rater: study_server.plan(made, rater) for rater in map(str, range(40))}
    assert plans["3"] == study_server.plan(made, "3")
    first = [plan[0]["clip"] for plan in plans.values()]
    assert set(first) == set(made["clips"])
    orders = [tuple(p["methods"]) for plan in plans.values() for p in plan]
    assert len(set(orders)) == 6  # of 120 draws
    for plan in plans.values():
        assert sorted(p["clip"] for p in plan) == sorted(made["clips"])
    asked = {rater: study_server.questions_of(made, rater) for rater in plans}
    assert asked["3"] == study_server.questions_of(made, "3")
    first = [questions[0] for questions in asked.values()]
    assert {*first} == {*made["questions"]} and 10 < first.count(first[0]) < 30
    assert all(sorted(q) == sorted(made["questions"]) for q in asked.values())


# --- the server --------------------------------------------------------------------


@contextlib.contextmanager
def running(folder):
    """The address of a served study."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (sys.executable, "-m", "tools.perceptual_study", "serve", folder)
    process = subprocess.Popen(
        [*command, "--port", str(port)], cwd=ROOT, env={**os.environ}
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
        yield address, process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def ask(address, path, rater, body=None):
    request = urllib.request.Request(
        address + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"cookie": f"rater={rater}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_answers_survive_a_reload_and_a_killed_server(study):
    """And come back under the methods' names, whatever order they were shown in."""
    folder, made = study
    raters = [f"{k:032x}" for k in range(1, 9)]
    rank = {"ours": 1, "plain": 2, "mean": 3}
    with running(folder) as (address, _):
        for rater in raters:
            status, state = ask(address, "/state", rater)
            assert status == 200 and (state["done"], state["total"]) == (0, 3)
            page = study_server.plan(made, rater)[0]
            assert state["page"] == {k: page[k] for k in ("clip", "truth", "shown")}
            body = dict.fromkeys(made["questions"], [rank[m] for m in page["methods"]])
            sent = {"clip": page["clip"], "answers": body}
            assert ask(address, "/answer", rater, sent)[0] == 200
            again = ask(address, "/state", rater)[1]
            assert again["done"] == 1 and again["page"]["clip"] != page["clip"]
        video = next(iter(made["clips"].values()))["ours"]
        reply = urllib.request.urlopen(f"{address}/video/{video}", timeout=30)
        assert reply.read() == b"mp4"
        for name in ("study.json", "answers.sqlite", "nothing.mp4"):
            assert ask(address, f"/video/{name}", raters[0])[0] == 404
    with running(folder) as (address, _):  # it was killed
        for rater in raters:
            assert ask(address, "/state", rater)[1]["done"] == 1
    results = perceptual_study.analyse(folder)
    for result in results.values():
        assert result.methods == ["ours", "plain", "mean"] and result.raters == 8
        assert result.ranks == [1, 2, 3]
    assert "| ours | 1.00 |" in (folder / "results.md").read_text()
    assert (folder / "results.png").stat().st_size > 5000


def test_without_a_cookie_no_answer_is_kept(study):
    """Else it would be read in the order of a rater who was shown nothing."""
    folder, made = study
    whole = {question: [1, 2, 3] for question in made["questions"]}
    sent = {"clip": next(iter(made["clips"])), "answers": whole}
    with running(folder) as (address, _):
        for stranger in ("", "A" * 32, "a" * 31):
            status, reply = ask(address, "/answer", stranger, sent)
            assert status == 400 and "cookie" in reply["error"]
            status, reply = ask(address, "/state", stranger)
            assert status == 400 and "cookie" in reply["error"]
        with urllib.request.urlopen(address, timeout=30) as reply:
            given = reply.headers["set-cookie"]
        # A strict one is not sent by who follows a link here: a second rater.
        assert "samesite=lax" in given.lower() and "httponly" in given.lower()
        rater = given.partition("rater=")[2][:32]
        assert ask(address, "/answer", rater, sent)[0] == 200
        request = urllib.request.Request(address, headers={"cookie": f"rater={rater}"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            assert f"rater={rater}" in reply.headers["set-cookie"]
    found = study_server.read(folder / "answers.sqlite", made["questions"][0])
    assert [name for name, _ in found] == [rater]


def test_half_an_answer_is_refused_whole(study):
    folder, made = study
    rater = "a" * 32
    page = study_server.plan(made, rater)[0]
    whole = {question: [1, 2, 3] for question in made["questions"]}
    with running(folder) as (address, _):
        for answers in (
            {},
            {made["questions"][0]: [1, 2, 3]},
            {**whole, made["questions"][0]: [1, 1, 3]},
            {**whole, made["questions"][0]: [1, 2]},
            *({**whole, made["questions"][0]: [1, 2, "x"]}, "text"),
        ):
            sent = {"clip": page["clip"], "answers": answers}
            status, reply = ask(address, "/answer", rater, sent)
            assert status == 400 and reply["error"]
        assert ask(address, "/answer", rater, {"clip": "x", "answers": whole})[0] == 400
        assert ask(address, "/answer", rater, ["x"])[0] == 400
        assert ask(address, "/state", rater)[1]["done"] == 0
    assert study_server.read(folder / "answers.sqlite", made["questions"][0]) == []


def test_simulate_and_help_on_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr(perceptual_study, "power", lambda *a, **k: 0.8)
    perceptual_study.main(["simulate", "--raters", "3"])
    assert "80 % of studies" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        perceptual_study.main(["--help"])
    assert done.value.code == 0
    assert "simulate" in capsys.readouterr().out


# --- the page ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """(folder, study) of one clip, twelve frames, really rendered."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("rendered")
    sound = (3000 * np.sin(np.arange(12 * 640) / 5)).astype(np.int16)
    for k, name in enumerate(("truth", *METHODS)):
        motion = np.zeros((12, 56), "f4")
        motion[:, 50] = 0.06 * k * np.abs(np.sin(np.arange(12) / 2))
        (root / name).mkdir()
        np.savez(root / name / "hum.npz", motion=motion, audio=sound, fps=25)
        np.savez(root / name / "hum2.npz", motion=motion, audio=sound, fps=25)
    methods = {name: root / name for name in METHODS}
    out = root / "study"
    return out, perceptual_study.make(out, root / "truth", methods, size=64)


def test_videos_are_rendered_with_the_recordings_sound(rendered):
    av = pytest.importorskip("av")
    folder, made = rendered
    pictures = {}
    for method, video in made["clips"]["hum"].items():
        with av.open(str(folder / video)) as file:
            frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
        with av.open(str(folder / video)) as file:
            heard = np.concatenate(
                [f.to_ndarray()[0] for f in file.decode(audio=0)], axis=-1
            )
        assert len(frames) == 12 and frames[0].shape == (64, 64, 3)
        assert np.abs(heard).mean() > 0.02
        pictures[method] = np.stack(frames).astype(float)
    still = np.abs(pictures["truth"] - pictures["truth"][:1]).mean()
    moved = np.abs(pictures["mean"] - pictures["mean"][:1]).mean()
    assert moved > still + 0.3


def test_a_person_answers_and_a_reload_goes_on(rendered, tmp_path):
    from tests.test_page_browser import start_chromium, wait_for

    folder, made = rendered
    with running(folder) as (address, _):
        browser = start_chromium(tmp_path / "profile", 900, 900)
        try:
            browser.get(address)
            wait_for(browser, "return !document.getElementById('main').hidden", 30)
            ready = "return [...document.querySelectorAll('video')].length == 4 && "
            ready += "[...document.querySelectorAll('video')].every(v=>v.readyState>1)"
            wait_for(browser, ready, 30)
            button = "return document.getElementById('next').disabled"
            assert browser.execute_script(button)
            click = "document.querySelector(`input[name='q%d-%d'][value='%d']`).click()"
            for question in range(2):
                for k in range(3):
                    browser.execute_script(click % (question, k, 3 - k))
            assert not browser.execute_script(button)
            # A rank that is given again is taken from where it was.
            browser.execute_script(click % (0, 0, 1))
            assert browser.execute_script(button)
            browser.execute_script(click % (0, 2, 3))
            # Half a form, too, survives a reload.
            browser.execute_script(click % (1, 0, 1))
            browser.refresh()
            chosen = "return [...document.querySelectorAll('input:checked')]"
            chosen += ".map((input) => `${input.name}=${input.value}`).join(' ')"
            half = "q0-0=1 q0-1=2 q0-2=3 q1-0=1 q1-1=2"
            wait_for(browser, chosen + f" === '{half}'", 30)
            assert browser.execute_script(button)
            browser.execute_script(click % (1, 0, 3))
            browser.execute_script(click % (1, 2, 1))
            assert not browser.execute_script(button)
            browser.execute_script("document.getElementById('next').click()")
            status = "return document.getElementById('status').textContent"
            wait_for(browser, f"{status}.startsWith('Clip 2 of 2')", 30)
            browser.refresh()
            wait_for(browser, f"{status}.startsWith('Clip 2 of 2')", 30)
            refused = [
                line["message"]
                for line in browser.get_log("browser")
                if "favicon" not in line["message"] and line["level"] == "SEVERE"
            ]
            assert not refused
        finally:
            browser.quit()
    (answer,) = study_server.read(folder / "answers.sqlite", made["questions"][0])
    page = study_server.plan(made, answer[0])[0]
    first, second = study_server.questions_of(made, answer[0])
    for question, ranks in ((first, [1, 2, 3]), (second, [3, 2, 1])):
        (answer,) = study_server.read(folder / "answers.sqlite", question)
        assert answer[1] == dict(zip(page["methods"], ranks, strict=True))
