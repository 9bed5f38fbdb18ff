"""The dataset inspector: its numbers, its picture, its pages."""

import json

import numpy as np
import pytest

from tests import tiny_corpus
from toktalk_jax.data import builder
from toktalk_jax.page import read_page
from tools import inspect_dataset


@pytest.fixture(scope="module", params=[True, False], ids=["sound", "silent"])
def dataset(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    builder.export(
        tiny_corpus.read(),
        out,
        tiny_corpus.tokenizer(),
        about=tiny_corpus.ABOUT,
        with_audio=request.param,
        shards=tiny_corpus.SHARDS,
    )
    return out, request.param


def test_it_tells_what_is_there(dataset, tmp_path, capsys):
    directory, sound = dataset
    inspect_dataset.main([str(directory), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "inspect.json").read_text())
    metadata = json.loads((directory / "metadata.json").read_text())
    clips = {split: facts["clips"] for split, facts in report["splits"].items()}
    assert clips == metadata["clips"] and report["skipped"] == metadata["skipped"]
    hours = sum(facts["hours"] for facts in report["splits"].values())
    assert hours == pytest.approx(sum(metadata["seconds"].values()) / 3600)
    assert report["moving"] == 55  # the last coefficient rests
    rest = report["coefficients"][-1]
    assert (rest["name"], rest["low"], rest["std"]) == ("neck z", 0.25, 0.0)
    assert (tmp_path / "inspect.png").stat().st_size > 20_000
    silence = report["splits"]["train"]["silence_share"]
    assert (silence == 0.0) if sound else (silence is None)
    for word in ("train", "55 of 56", "clip_2.html", *(() if sound else ["no sound"])):
        assert word in printed
    pages = [read_page(page) for page in report["pages"]]
    assert len({page["tracks"][0] for page in pages}) >= 1 and len(pages) == 3
    for page in pages:
        assert bool(np.any(page["arrays"]["audio"])) == sound


def test_silence_is_what_is_far_under_the_voice():
    rng = np.random.default_rng(0)
    voice = 3000 * rng.standard_normal(8000)
    audio = np.concatenate([voice, 3 * rng.standard_normal(8000)]).astype(np.int16)
    assert inspect_dataset.silence_share(audio) == pytest.approx(0.5, abs=0.01)


def test_no_dataset(tmp_path):
    with pytest.raises(SystemExit, match="inspect_dataset: "):
        inspect_dataset.main([str(tmp_path), "--out", str(tmp_path / "out")])


def test_a_sample_is_small_and_fair():
    """Every clip of a stream is as likely to be kept, and no more than asked for."""
    counts = np.zeros(40)
    for seed in range(2000):
        sample = inspect_dataset.Sample(5, np.random.default_rng(seed))
        for k in range(40):
            sample.add(k)
        assert len(sample.kept) == 5
        counts[sample.kept] += 1
    assert abs(counts / 2000 - 5 / 40).max() < 0.035


def test_little_is_held_of_a_long_dataset(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_dataset, "MEASURED", 3)
    monkeypatch.setattr(inspect_dataset, "PIECE", 10)
    report = inspect_dataset.inspect(dataset[0], tmp_path)
    assert report["coefficients_of_frames"] <= 30 and len(report["pages"]) == 3
