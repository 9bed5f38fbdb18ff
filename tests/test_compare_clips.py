"""Takes side by side: their numbers, files and errors, and the command."""

import functools
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.test_page import hum, speaking
from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.evaluation import curves, scoring
from toktalk_jax.flame import assets, model, regions
from toktalk_jax.flame.assets import Marks, load_head
from toktalk_jax.page import comparison, read_page
from tools import compare_clips, compare_picture

FRAMES = 40


@pytest.fixture(scope="module")
def head():
    return load_head()


def write_takes(path):
    """Takes a (40 frames, sound), b (44), truth (42); jaw.npz: truth, jaw down.

    last.npz (43) is the fourth head, as many as there may be.
    """
    for seed, (name, frames) in enumerate({"a": 40, "b": 44, "truth": 42}.items()):
        takes.write(
            path / name,
            speaking(seed, frames),
            types.SimpleNamespace(chunk_frames=10),
            types.SimpleNamespace(
                dataset={"face_model": "stand_in"}, meta={"hash": "h"}
            ),
            {"seed": seed, "timing": {}, "input": name},
            hum(frames / mo.FPS) if name == "a" else None,
        )
    jaw = speaking(2, 42)
    jaw[:, mo.JAW.start] += 0.15
    np.savez(path / "jaw.npz", motion=jaw)
    np.savez(path / "last.npz", motion=speaking(3, 43))
    return path


def load_three(path):
    """`Clips` of first, truth and jaw."""
    return compare_clips.load(_files(path), "truth")


def load_four(path):
    """`Clips` of first, truth, jaw and last."""
    return compare_clips.load([*_files(path), str(path / "last.npz")], "truth")


def _files(path):
    return [
        f"first={path / 'a'}",
        str(path / "truth/motion.npz"),
        str(path / "jaw.npz"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_takes(tmp_path_factory.mktemp("takes"))


@pytest.fixture(scope="module")
def clips(folder):
    return load_three(folder)


# Numbers -----------------------------------------------------------------------


def test_curves_are_what_the_scores_average(clips, head):
    measured = clips.compared.curves
    truth = clips.motions[1]
    for n in (0, 2):
        scores = scoring.score_clip(head, clips.motions[n], truth, chunk_frames=10)
        assert measured.lip_mm[n].mean() == pytest.approx(scores["lve_mm"], rel=1e-5)
        assert measured.vertex_mm[n].mean() == pytest.approx(scores["mve_mm"], rel=1e-5)
        assert compare_clips.scores(clips)[clips.labels[n]] == pytest.approx(
            {key: scores[key] for key in ("lve_mm", "mve_mm")}, rel=1e-5
        )
    assert not measured.lip_mm[1].any() and "truth" not in compare_clips.scores(clips)


@pytest.fixture(scope="module")
def still(clips, head):
    """[3, T, V, 3] vertices with the head pose zeroed."""
    made = jax.jit(functools.partial(model.vertices, pose=False))(head, clips.motions)
    return np.asarray(made, np.float64)


def test_curves_frame_by_frame(clips, head, still):
    apart = 1e3 * np.linalg.norm(still - still[1], axis=-1)
    measured = clips.compared.curves
    lips = regions.lips(head)
    np.testing.assert_allclose(measured.lip_mm, apart[:, :, lips].max(-1), atol=1e-3)
    np.testing.assert_allclose(measured.largest_mm, apart.max(-1), atol=1e-3)
    np.testing.assert_allclose(measured.vertex_mm, apart.mean(1), atol=1e-3)
    corners = still[:, :, np.asarray(head.faces)[head.landmark_faces[[62, 66]]]]
    points = (corners * head.landmark_weights[[62, 66], :, None]).sum(-2)
    gaps = 1e3 * np.linalg.norm(points[:, :, 0] - points[:, :, 1], axis=-1)
    np.testing.assert_allclose(measured.gap_mm, gaps, atol=1e-3)


def test_numbers_do_not_see_the_head_turn(clips, head):
    turned = clips.motions.copy()
    turned[2, :, mo.NECK] += 0.2
    measured = curves.measure(head, turned, 1)
    for ours, theirs in zip(measured, clips.compared.curves, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_without_truth_or_marks_there_is_less(clips, head):
    measured = curves.measure(head, clips.motions)
    assert measured[1:] == (None, None, None)
    compared = comparison.Comparison(measured, None, (None, None, None))
    (lane,) = comparison.lanes(compared)
    assert lane.name == "Mouth gap, mm" and sorted(lane.values) == [0, 1, 2]
    skin = {"skin": np.arange(len(head.v_template))}
    bare = head.replace(marks=Marks("bare", skin, {}))
    assert curves.measure(bare, clips.motions) == (None,) * 4
    with pytest.raises(ValueError, match="has no region 'lips'"):
        curves.measure(bare, clips.motions, 0)


@pytest.mark.parametrize(
    ("mm", "bar"), [(0, 0.1), (0.12, 0.15), (2, 2), (6.99, 8), (11, 15), (81, 100)]
)
def test_the_colour_bar_ends_at_a_round_number(mm, bar):
    assert comparison.ceiling(mm) == pytest.approx(bar)


# Files -------------------------------------------------------------------------


def test_takes_are_named_cut_and_given_their_sound(folder):
    said = []
    paths = [
        str(folder / "b"),
        f"first={folder / 'a'}",
        str(folder / "truth/motion.npz"),
    ]
    clips = compare_clips.load(paths, say=said.append)
    assert clips.labels == ["b", "first", "truth"]
    assert said == ["cut to 40 frames (1.60 s): b has 44, truth has 42"]
    assert clips.motions.shape == (3, FRAMES, mo.F) and clips.head_joint == "neck"
    np.testing.assert_array_equal(clips.motions[0], speaking(1, 44)[:FRAMES])
    np.testing.assert_allclose(clips.audio, hum(1.6), atol=1 / 32767)
    assert clips.compared.chunk_frames == (10, 10, 10)
    assert clips.facts["first"]["seed"] == "0" and clips.compared.truth is None


def test_sound_from_a_file_or_none(folder, tmp_path):
    said = []
    paths = [str(folder / name) for name in ("b", "truth", "jaw.npz")]
    clips = compare_clips.load(paths, say=said.append)
    assert len(clips.audio) == 42 * mo.SAMPLES_PER_FRAME and not clips.audio.any()
    assert "there is silence; --wav" in said[1]
    soundfile.write(tmp_path / "short.wav", hum(1), mo.SAMPLE_RATE, "FLOAT")
    clips = compare_clips.load(paths, wav=tmp_path / "short.wav", say=said.append)
    np.testing.assert_allclose(clips.audio[:16_000], hum(1), atol=1e-6)
    assert (
        len(clips.audio) == 42 * mo.SAMPLES_PER_FRAME and not clips.audio[16_000:].any()
    )


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("runs/v1.2", "v1.2"),
        ("runs/v1.2/", "v1.2"),
        ("runs/v1.2/motion.npz", "v1.2"),
        ("runs/lr=3/mean.npz", "mean"),
        ("ours=runs/lr=3/mean.npz", "ours"),
    ],
)
def test_names(tmp_path, monkeypatch, argument, name):
    monkeypatch.chdir(tmp_path)
    for folder, file in (("v1.2", "motion"), ("lr=3", "mean")):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / f"{file}.npz").touch()
    found, path = compare_clips.named(argument)
    assert found == name and path.exists()


def test_a_head_without_lips_or_landmarks(tmp_path):
    """As FLAME's own file without the masks and landmarks beside it."""
    source = assets.__file__.replace("assets.py", "data/stand_in_head.npz")
    with np.load(source) as raw:
        kept = {
            k: v for k, v in raw.items() if not k.startswith(("region", "landmark"))
        }
    np.savez(tmp_path / "bare.npz", **kept)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", motion=speaking(0, 8))
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    files, head = [*map(str, paths)], tmp_path / "bare.npz"
    with pytest.raises(ValueError, match="names no lips.*FLAME_masks.pkl beside"):
        compare_clips.load(files, "a", head=head)
    clips = compare_clips.load(files, head=head)
    assert comparison.lanes(clips.compared) == []
    page = read_page(compare_clips.page(clips, tmp_path / "page.html", "Bare"))
    assert page["compare"]["lanes"] == [] and page["compare"]["heat"] is None
    board = compare_picture.draw_board(clips, 64)
    assert board.top == board.bottom and board.picture.shape[0] % 2 == 0


def test_differing_chunks_are_drawn_in_their_heads_colours():
    (ten, orange), (twenty, yellow) = comparison.borders((10, None, 20))
    assert (ten, twenty) == (10, 20)
    assert orange.startswith(comparison.COLOURS[0])
    assert yellow.startswith(comparison.COLOURS[2])
    assert comparison.borders((10, None, 10)) == [(10, comparison.LINE)]
    assert comparison.borders((None,)) == []


WRONG = {
    "fps": {"fps": 30},
    "joint": {"head_joint": "root"},
    "model": {"face_model": "flame2020"},
    "narrow": {"motion": np.zeros((9, 55))},
    "broken": {"motion": np.full((9, 56), np.nan)},
    "tokens": {"motion": None, "tokens": np.zeros((9, 4))},
    "chunk": {"chunk_frames": 0},
    "loud": {"audio": np.zeros(99)},
}


@pytest.mark.parametrize(
    ("takes_given", "flags", "message"),
    [
        (["a"], [], "1 takes came; give 2 to 4"),
        (["a", "b", "truth", "jaw.npz", "x=a"], [], "5 takes came; give 2 to 4"),
        (["a", "b"], ["--truth", "c"], r"truth 'c' is none of the takes \['a', 'b'\]"),
        (["a", "a/motion.npz"], [], r"named \['a', 'a'\]; tell them apart: NAME=FILE"),
        (["a", "gone"], [], "no motion file at .*gone"),
        (["a", "."], [], "no motion file at .*motion.npz"),
        (["a", "a/report.json"], [], "report.json is not a whole .npz file"),
        (["a", "fps.npz"], [], "fps has 30 frames a second; expected 25"),
        (["a", "joint.npz"], [], "different head joints: .*'joint': 'root'"),
        (["a", "model.npz"], [], "different face models: .*'model': 'flame2020'"),
        (
            ["model.npz", "x=model.npz"],
            [],
            "is of face model 'flame2020'.*no head file",
        ),
        (["a", "narrow.npz"], [], r"motion is \(9, 55\); expected \[T, 56\]"),
        (["a", "broken.npz"], [], "motion holds NaN or Inf"),
        (["a", "tokens.npz"], [], r"holds no motion \[T, 56\]; it has \['tokens'\]"),
        (["a", "chunk.npz"], [], "chunk_frames is 0"),
        (["a", "loud.npz"], [], r"audio is float64 \(99,\); expected \[L\] int16"),
        (["a", "b"], ["--wav", "none.wav"], "no sound file at none.wav"),
        (["a", "b"], ["--heat_map", "e.png"], "name the take that is right: --truth"),
        (["a", "b"], ["--out", ""], "nothing to write; give --out, --mp4 or --heat"),
        (
            ["a", "b", "truth"],
            ["--mp4", "m.mp4", "--size", "65"],
            "65 pixels; expected an even",
        ),
    ],
)
def test_what_cannot_be_compared_says_why(
    folder, tmp_path, takes_given, flags, message
):
    for name, wrong in WRONG.items():
        arrays = {"motion": np.zeros((9, 56)), **wrong}
        kept = {key: value for key, value in arrays.items() if value is not None}
        np.savez(tmp_path / f"{name}.npz", **kept)
    for name in ("a", "b", "truth", "jaw.npz"):
        (tmp_path / name).symlink_to(folder / name)
    given = []
    for take in takes_given:
        name, equals, path = take.rpartition("=")
        given.append(f"{name}{equals}{tmp_path / path}")
    if "--mp4" in flags:
        flags = ["--mp4", str(tmp_path / "m.mp4"), *flags[2:]]
    elif "--out" not in flags:
        flags = [*flags, "--out", str(tmp_path / "page.html")]
    with pytest.raises(SystemExit, match=f"^compare_clips: (?s:.*){message}"):
        compare_clips.main([*given, *flags])
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.glob("*.mp4"))


def test_the_command_writes_all_three(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    compare_clips.main(
        [f"ours={folder / 'a'}", str(folder / "truth"), str(folder / "jaw.npz")]
        + [
            "--truth",
            "truth",
            "--out",
            "page.html",
            "--mp4",
            "clips.mp4",
            "--heat_map",
            "errors.png",
        ]
        + ["--size", "64"]
    )
    said = capsys.readouterr().out
    assert "cut to 40 frames" in said and "ours lve_mm" in said
    assert read_page("page.html")["tracks"] == ["ours", "truth", "jaw"]
    from PIL import Image

    with Image.open("errors.png") as picture:
        assert picture.size == (1080, 570)
    assert (tmp_path / "clips.mp4").stat().st_size > 5000
    assert {path.name for path in tmp_path.iterdir()} == {
        *("page.html", "clips.mp4", "errors.png")
    }


def test_help_helps():
    done = subprocess.run(
        [sys.executable, "-m", "tools.compare_clips", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--truth NAME" in done.stdout, done.stderr
    assert "lve_mm" in done.stdout
