"""Readers of corpora on disk: true layouts made here, and what they refuse."""

import copyreg
import io
import json
import os
import pickle

import numpy as np
import pytest
import soundfile

from toktalk_jax import motion as mo
from toktalk_jax.data import schema
from toktalk_jax.data.corpora import (
    coefficients,
    facegood,
    hdtf_tfhp,
    ravdess,
    splits,
)
from toktalk_jax.flame import arkit, pickles
from toktalk_jax.flame.assets import load_head
from toktalk_jax.flame.model import vertices

SPF = mo.SAMPLES_PER_FRAME


def tracked(rng, frames):
    """DiffPoseTalk's arrays of a clip."""
    return {
        "shape": np.tile(rng.standard_normal(100).astype("f4"), (frames, 1)),
        "exp": rng.standard_normal((frames, 50)).astype("f4"),
        "pose": (0.1 * rng.standard_normal((frames, 6))).astype("f4"),
    }


def noise(rng, frames):
    return (0.1 * rng.standard_normal(frames * SPF)).astype("f4")


def flac(samples):
    out = io.BytesIO()
    soundfile.write(out, samples, mo.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def write_lmdb(folder, clips, extra=()):
    """An LMDB in DiffPoseTalk's layout. clips: {"person/000": (audio, arrays)}."""
    lmdb = pytest.importorskip("lmdb")
    dump = lambda value: pickle.dumps(value, pickle.HIGHEST_PROTOCOL)  # noqa: E731
    with lmdb.open(str(folder), map_size=1 << 28) as database:
        with database.begin(write=True) as out:
            out.put(b"metadata", dump({"seg_len": 100}))
            for name, (audio, arrays) in clips.items():
                frames = len(arrays["exp"])
                out.put(f"{name}/metadata".encode(), dump({"n_frames": frames}))
                for k, start in enumerate(range(0, frames, 100)):
                    rows = slice(start, min(start + 100, frames))
                    value = {
                        "audio": flac(audio[start * SPF : rows.stop * SPF]),
                        "coef": {key: array[rows] for key, array in arrays.items()},
                    }
                    out.put(f"{name}/{k:03d}".encode(), dump(value))
            for key, value in extra:
                out.put(key, value)


@pytest.fixture(scope="module")
def talkers():
    """20 speakers, a clip or two each, longer and shorter than a segment."""
    rng = np.random.default_rng(0)
    clips = {}
    for person in range(20):
        for video in range(1 + person % 2):
            frames = int(rng.integers(12, 260))
            name = f"Sprecherin_ä{person:02d}/{video:03d}"
            clips[name] = noise(rng, frames), tracked(rng, frames)
    return clips


def assert_read(clips, talkers):
    assert [c.clip_id for c in clips] == sorted(talkers)
    for clip in clips:
        audio, arrays = talkers[clip.clip_id]
        np.testing.assert_allclose(clip.audio, audio, atol=1 / 32768)
        np.testing.assert_array_equal(clip.motion[:, mo.EXPRESSION], arrays["exp"])
        np.testing.assert_array_equal(clip.motion[:, mo.NECK], arrays["pose"][:, :3])
        np.testing.assert_array_equal(clip.motion[:, mo.JAW], arrays["pose"][:, 3:])
        np.testing.assert_allclose(clip.shape, arrays["shape"][0], atol=1e-6)
        assert clip.speaker_id == clip.clip_id.split("/")[0]
        schema.check_clip(clip)


def test_an_lmdb_of_twenty_speakers_reads_back(tmp_path, talkers):
    write_lmdb(tmp_path, talkers)
    skipped = []
    clips = [*hdtf_tfhp.read(tmp_path, lambda *line: skipped.append(line))]
    assert not skipped
    assert_read(clips, talkers)
    begun = hdtf_tfhp.read(tmp_path)
    next(begun)
    begun.close()  # and with it the database
    of = {split: {c.speaker_id for c in clips if c.split == split} for split in SPLITS}
    assert [len(of[split]) for split in SPLITS] == [16, 2, 2]
    assert not of["train"] & of["test"] and not of["validation"] & of["test"]
    again = [c.split for c in hdtf_tfhp.read(tmp_path)]
    assert again == [c.split for c in clips]
    assert again != [c.split for c in hdtf_tfhp.read(tmp_path, seed=1)]


SPLITS = ("train", "validation", "test")


def test_the_published_lists_decide_where_they_lie(tmp_path, talkers):
    write_lmdb(tmp_path, talkers)
    names = sorted(talkers)
    for name, part in (("train", names[:-4]), ("val", names[-4:-2]), ("test", [])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part) + "\n", "utf-8")
    skipped = []
    clips = [*hdtf_tfhp.read(tmp_path, lambda *line: skipped.append(line))]
    assert [c.split for c in clips] == ["train"] * (len(names) - 4) + ["validation"] * 2
    assert [line[0] for line in skipped] == names[-2:]
    assert all("in none of train.txt" in reason for _, reason in skipped)


def test_published_numbers_of_speakers():
    split = splits.last([f"p{k}" for k in range(588)], 64, 64)
    counts = [list(split.values()).count(s) for s in SPLITS]
    assert counts == [460, 64, 64]
    with pytest.raises(ValueError, match="too few"):
        splits.shares(["a", "b"])


class Hostile:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_is_wrong_with_a_clip_is_told_and_the_rest_is_kept(tmp_path, talkers):
    names = sorted(talkers)
    audio, arrays = talkers[names[0]]
    whole = {"audio": flac(audio[: 20 * SPF]), "coef": tracked(np.random, 20)}
    meta = pickle.dumps({"n_frames": 20})

    def clip(name, segment, metadata=meta):
        raw = segment if isinstance(segment, bytes) else pickle.dumps(segment)
        return [(f"{name}/metadata".encode(), metadata), (f"{name}/000".encode(), raw)]

    ran = tmp_path / "ran"
    bad = {
        "a/hostile": (Hostile(str(ran)), "asks for posix.mkdir"),
        "a/foreign": (pickle.dumps(ravdess.Fields(*range(7))), "asks for toktalk_jax"),
        "a/broken": (pickle.dumps(whole)[:-300], "data was truncated"),
        "a/noflac": (whole | {"audio": b"RIFF"}, "its FLAC is broken"),
        "a/nocoef": ({"audio": whole["audio"]}, "lacks 'coef'"),
        "a/text": ("text", "segment 0 lacks"),
        "a/short": (whole | {"coef": tracked(np.random, 9)}, "its metadata says 20"),
        "a/shape": (whole | {"coef": {"exp": np.ones((20, 9))}}, "expected motion, or"),
    }
    extra = [item for name, (value, _) in bad.items() for item in clip(name, value)]
    extra += [(b"a/none/metadata", meta)]
    folder = tmp_path / "lmdb"
    folder.mkdir()
    write_lmdb(folder, talkers, extra)
    skipped = {}
    clips = [*hdtf_tfhp.read(folder, skipped.__setitem__)]
    assert not ran.exists()
    assert_read(clips, talkers)
    for name, (_, reason) in bad.items():
        assert reason in skipped[name], name
    assert "0 segments" in skipped["a/none"]


def test_a_flac_cut_short_is_no_clip():
    """libsndfile may read as far as it comes; then the motion is longer than it."""
    rng = np.random.default_rng(3)
    samples, arrays = noise(rng, 40), tracked(rng, 40)
    cut = {"audio": flac(samples)[:9000], "coef": arrays}
    with pytest.raises(schema.BadClip, match="FLAC is broken|but sound for only"):
        audio, motion, _ = hdtf_tfhp._join({"n_frames": 40}, cut)
        schema.check_clip(schema.RawClip("a", "b", "c", "train", audio, motion))


class Reduced:
    """Pickles as whatever call it was given."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def hostile_dtype(offset=0, size=8):
    fields = {"a": (np.dtype("O"), offset)}
    state = (3, "|", None, ("a",), fields, size, 1, 0)
    return Reduced(np.dtype, (f"V{size}", False, True), state)


@pytest.mark.parametrize("offset", [0, 4096])
def test_bytes_are_never_made_object_pointers(offset):
    """A dtype of one hidden object field, as NumPy's own `__setstate__` takes it."""
    builders = np.zeros(1).__reduce_ex__(5)[0], np.float64(0).__reduce__()[0]
    dtype, raw = hostile_dtype(offset), b"A" * 8
    for value in (
        Reduced(builders[0], (raw, dtype, (1,), "C")),
        Reduced(builders[1], (dtype, raw)),
        Reduced(np.ndarray, ((1,), dtype, raw)),
        dtype,
    ):
        with pytest.raises(pickle.UnpicklingError, match="dtype"):
            pickles.loads(pickle.dumps({"motion": value}))
    objects = Reduced(builders[0], (raw, np.dtype("O"), (1,), "C"))
    with pytest.raises(pickle.UnpicklingError, match="objects where numbers"):
        pickles.loads(pickle.dumps(objects))


def test_a_pickle_leaves_no_mark_on_the_process():
    for module, name in (("copyreg", "_reconstructor"), ("collections", "OrderedDict")):
        mark = f"c{module}\n{name}\n(N}}(S'__wrapped__'\nI1\nutb.".encode()
        with pytest.raises(pickle.UnpicklingError):
            pickles.loads(mark)
    assert not hasattr(copyreg._reconstructor, "__wrapped__")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_honest_values_read_back(protocol):
    value = {
        "shape": np.arange(6, dtype=">f4").reshape(2, 3).copy("F"),
        "names": np.array(["a", "ä"]),
        "kept": [np.float32(2.5), True, None, b"x", {"n": (1, 2)}],
        "on": np.array([True, False]),
    }
    found = pickles.loads(pickle.dumps(value, protocol))
    for key in ("shape", "names", "on"):
        np.testing.assert_array_equal(found[key], value[key])
        assert found[key].dtype == value[key].dtype
    assert found["kept"] == value["kept"] and {*found} == {*value}


def test_no_database_and_a_broken_one(tmp_path):
    pytest.importorskip("lmdb")
    with pytest.raises(FileNotFoundError, match=r"data.mdb.*person/video.wav"):
        next(hdtf_tfhp.read(tmp_path))
    (tmp_path / "data.mdb").write_bytes(b"no database" * 999)
    with pytest.raises(ValueError, match="not a readable LMDB"):
        next(hdtf_tfhp.read(tmp_path))


def test_plain_folders_read_as_the_lmdb_does(tmp_path, talkers):
    for name, (audio, arrays) in talkers.items():
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, audio, mo.SAMPLE_RATE, subtype="PCM_16")
        np.savez(path.with_suffix(".npz"), **arrays)
    assert_read([*hdtf_tfhp.read(tmp_path)], talkers)
    lost = sorted(talkers)[3]
    (tmp_path / f"{lost}.wav").unlink()
    skipped = {}
    clips = [*hdtf_tfhp.read(tmp_path, skipped.__setitem__)]
    assert len(clips) == len(talkers) - 1 and "no sound file" in skipped[lost]


@pytest.fixture()
def actors(tmp_path):
    return make_ravdess(tmp_path)


def make_ravdess(source):
    """Sixteen clips of eight actors in RAVDESS' layout."""
    rng = np.random.default_rng(1)
    for actor in range(1, 9):
        folder = source / f"Actor_{actor:02d}"
        folder.mkdir(parents=True)
        for emotion, intensity in ((1, 1), (5, 2)):
            stem = f"03-01-{emotion:02d}-{intensity:02d}-01-02-{actor:02d}"
            soundfile.write(folder / f"{stem}.wav", noise(rng, 30), mo.SAMPLE_RATE)
            motion = rng.standard_normal((36, mo.F)).astype("f4")
            np.savez(folder / f"{stem}.npz", motion=motion, fps=30.0)
    return source


def test_ravdess_by_its_names(actors):
    first = actors / "Actor_01"
    soundfile.write(first / "take one.wav", np.zeros(9000), mo.SAMPLE_RATE)
    soundfile.write(first / "03-01-09-01-01-01-01.wav", np.zeros(9000), 16000)
    soundfile.write(first / "03-01-02-01-01-01-02.wav", np.zeros(9000), 16000)
    soundfile.write(first / "03-01-02-01-01-01-01.wav", np.zeros(9000), 16000)
    (first / "03-01-01-01-01-02-01.npz").write_bytes(b"PK\x03\x04 broken")
    (actors / "Actor_02/03-01-01-01-01-02-02.wav").unlink()
    skipped = {}
    clips = [*ravdess.read(actors, skipped.__setitem__)]
    assert len(clips) == 14 and len(skipped) == 6
    reasons = " | ".join(skipped.values())
    for part in (
        *("seven fields", "emotion is 9; expected 1 to 8", "the name says actor 2"),
        *("no coefficients at 03-01-02", "not a whole npz", "no sound file at"),
    ):
        assert part in reasons
    strong = [c for c in clips if c.emotion == ravdess.EMOTIONS.index("angry")]
    assert len(strong) == 8 and all(c.intensity == 1 for c in strong)
    assert all(len(c.motion) == 30 for c in clips)  # 36 frames at 30 fps
    actors_of = {s: {c.speaker_id for c in clips if c.split == s} for s in SPLITS}
    assert [len(actors_of[s]) for s in SPLITS] == [6, 1, 1]
    with pytest.raises(FileNotFoundError, match="no Actor_XX"):
        next(ravdess.read(actors / "Actor_01"))


def test_resampling_keeps_the_time_of_what_moves():
    time_s = (np.arange(300) + 0.5) / 30
    wave = np.sin(2 * np.pi * time_s)[:, None]
    out = coefficients.resample(wave, 30)
    assert out.shape == (250, 1)
    expected = np.sin(2 * np.pi * (np.arange(250) + 0.5) / 25)
    np.testing.assert_allclose(out[2:-2, 0], expected[2:-2], atol=0.03)
    with pytest.raises(schema.BadClip, match="fps is 0"):
        coefficients.resample(wave, 0)


def test_arkit_scores_move_the_stand_in():
    head = load_head()
    scores = np.zeros((4, 52), "f4")
    for row, name in enumerate(("jawOpen", "mouthPucker", "jawLeft")):
        scores[row, mo.ARKIT_52.index(name)] = 1
    motion = arkit.to_coefficients(scores)
    assert not motion[3].any() and (motion[:3] != 0).sum(1).tolist() == [1, 1, 1]
    points = np.asarray(vertices(head, motion))
    lower = np.asarray(head.landmark_faces)  # has landmarks: the stand-in
    assert lower is not None
    moved = points[:3] - points[3]
    assert moved[0, :, 1].min() < -0.015  # the chin falls by centimetres
    assert np.abs(moved[2, :, 0]).max() > 0.002 and moved[2, :, 0].mean() > 0
    with pytest.raises(ValueError, match=r"\(4, 51\)"):
        arkit.to_coefficients(scores[:, :51])


def facegood_folder(folder, count=3):
    channels = ["rest", "jaw", "left", "right"]
    (folder / facegood.NAMES).write_text(json.dumps(channels))
    mapping = {"jawOpen": ["jaw"], "mouthPucker": ["left", "right"]}
    (folder / facegood.MAP).write_text(json.dumps(mapping))
    rng = np.random.default_rng(2)
    for k in range(count):
        soundfile.write(folder / f"c{k}.flac", noise(rng, 50), mo.SAMPLE_RATE)
        shapes = rng.uniform(0, 1, (60, 4)).astype("f4")
        np.savez(folder / f"c{k}.npz", blendshapes=shapes, fps=np.float32(30))


def test_facegood_takes_the_largest_channel(tmp_path):
    facegood_folder(tmp_path)
    clips = [*facegood.read(tmp_path)]
    assert sorted(c.split for c in clips) == ["test", "train", "validation"]
    with np.load(tmp_path / "c0.npz") as raw:
        shapes = raw["blendshapes"]
    pucker = clips[0].motion[:, mo.ARKIT_EXPRESSION.index("mouthPucker")]
    expected = coefficients.resample(shapes[:, 2:].max(1)[:, None], 30)[:, 0]
    np.testing.assert_allclose(pucker, expected, atol=1e-6)
    assert len(clips[0].motion) == 50 and clips[0].motion[:, 50].max() > 0
    (tmp_path / "c1.npz").unlink()
    np.savez(tmp_path / "c2.npz", blendshapes=np.ones((9, 3)), fps=30)
    skipped = {}
    assert len([*facegood.read(tmp_path, skipped.__setitem__)]) == 1
    assert "cannot be read" in skipped["c1"] and "(9, 3)" in skipped["c2"]
    (tmp_path / facegood.MAP).write_text('{"jawOpen": ["none"]}')
    with pytest.raises(ValueError, match=r"\['none'\]"):
        next(facegood.read(tmp_path))
    for text, reason in (("[1]", "holds no dict"), ('{"a":', "is not JSON")):
        (tmp_path / facegood.MAP).write_text(text)
        with pytest.raises(ValueError, match=reason):
            next(facegood.read(tmp_path))
    with pytest.raises(FileNotFoundError, match="blendshape_names"):
        next(facegood.read(tmp_path / "c"))


def test_facegood_itself(shared):
    clips = [*facegood.read(shared / "facegood_audio2face")]
    assert len(clips) == 7
    for clip in clips:
        clip = schema.check_clip(clip)
        jaw = clip.motion[:, mo.JAW.start]
        assert 0.05 < jaw.max() < 0.6 and (jaw >= 0).all()
        count = min(len(jaw), len(clip.audio) // SPF)
        loud = np.abs(clip.audio[: count * SPF]).reshape(-1, SPF).mean(1)
        assert np.corrcoef(jaw[:count], loud)[0, 1] > 0.2


def test_segments_past_999_stay_in_order(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    rng = np.random.default_rng(4)
    arrays, samples = tracked(rng, 1003), noise(rng, 1)
    with lmdb.open(str(tmp_path), map_size=1 << 28) as database:
        with database.begin(write=True) as out:
            out.put(b"p/000/metadata", pickle.dumps({"n_frames": 1003}))
            for k in range(1003):
                coef = {key: array[k : k + 1] for key, array in arrays.items()}
                value = {"audio": flac(samples), "coef": coef}
                out.put(f"p/000/{k:03d}".encode(), pickle.dumps(value))
            for name in "qr":
                out.put(f"{name}/000/metadata".encode(), pickle.dumps({"n_frames": 0}))
    clips = [*hdtf_tfhp.read(tmp_path)]
    assert [c.clip_id for c in clips] == ["p/000"]
    np.testing.assert_array_equal(clips[0].motion[:, mo.EXPRESSION], arrays["exp"])


def test_two_lists_of_three_are_an_error(tmp_path, talkers):
    write_lmdb(tmp_path, talkers)
    (tmp_path / "train.txt").write_text("a/000")
    with pytest.raises(ValueError, match="holds train.txt but not all of"):
        next(hdtf_tfhp.read(tmp_path))


@pytest.mark.parametrize("damage", ["deflate", "npy", "fps"])
def test_a_damaged_npz_is_one_bad_clip(tmp_path, damage):
    path = tmp_path / "a.npz"
    arrays = {"motion": np.zeros((40, mo.F), "f4")}
    if damage == "npy":
        with open(path, "wb") as file:
            np.save(file, arrays["motion"])
    else:
        fps = np.array([30.0, 25.0]) if damage == "fps" else np.array(30.0)
        np.savez_compressed(path, **arrays, fps=fps)
    if damage == "deflate":
        raw = bytearray(path.read_bytes())
        raw[60:70] = b"damagedhere"[:10]
        path.write_bytes(raw)
    with pytest.raises(schema.BadClip):
        coefficients.read_npz(path)
