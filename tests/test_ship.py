"""What ships: small, attributed, loadable, free of machine paths."""

import types

import numpy as np
import pytest

from toktalk_jax.inputs import load_style
from toktalk_jax.sample import make_sampler
from toktalk_jax.training import checkpoints
from tools import ship_checkpoint

SMALL = checkpoints.SHIPPED / "small"


def test_a_run_ships_with_styles_and_card(tiny_run, tmp_path):
    args = types.SimpleNamespace(
        workdir=tiny_run,
        name="tiny",
        data="Tones.",
        command=["python -m toktalk_jax.train"],
        evaluation="",
        out=str(tmp_path),
    )
    folder = ship_checkpoint.ship(args)
    bundle = checkpoints.load(folder)
    assert bundle.config["dataset"] == ""
    assert bundle.meta["hash"] == checkpoints.load(tiny_run).meta["hash"]
    card = (folder / "MODEL_CARD.md").read_text()
    assert "Cooke" in card and bundle.meta["hash"] in card
    with np.load(folder / "styles.npz") as file:
        assert {k: file[k].shape for k in file} == {
            name: (50, 56) for name in ship_checkpoint.STYLES
        }


@pytest.mark.skipif(not SMALL.is_dir(), reason="no checkpoint named small ships yet")
def test_the_shipped_checkpoint_speaks():
    bundle = checkpoints.load("small")
    assert sum(p.stat().st_size for p in SMALL.iterdir()) < 15e6
    sampler = make_sampler(bundle)
    assert sampler.chunk_frames == 10 and bundle.dataset["tokenizer"] == "mel_rvq"
    styles = [load_style(bundle, name) for name in ("neutral", "lively", "none")]
    assert np.abs(styles[0] - styles[1]).max() > 1e-3 and not styles[2].any()
    text = "".join(p.read_text() for p in SMALL.iterdir() if p.suffix != ".npz")
    assert "Cooke" in text and "/tmp" not in text
    with pytest.raises(ValueError, match="shipped are"):
        load_style(bundle, "grumpy")


HIBARI = checkpoints.SHIPPED / "hibari_to_small"


@pytest.mark.skipif(not HIBARI.is_dir(), reason="no adapter ships yet")
def test_the_shipped_adapter_lets_the_synthesizer_drive_the_face(tmp_path):
    """Text to face without a tokenizer between: the mouth opens where it is spoken."""
    pytest.importorskip("hibari")
    from toktalk_jax import motion as mo
    from toktalk_jax import sample

    assert sum(p.stat().st_size for p in HIBARI.iterdir()) < 3e6
    text = "".join(p.read_text() for p in HIBARI.iterdir() if p.suffix != ".npz")
    assert "/tmp" not in text and "lve_mm" in text
    report = sample.sample(
        "small", tmp_path, text="My mama may buy a bigger boat.", adapter=HIBARI.name
    )
    assert report["tokenizer"] == "hibari" and report["adapter"]["name"] == HIBARI.name
    with np.load(tmp_path / "motion.npz") as file:
        jaw, audio = file["motion"][:, mo.JAW.start], file["audio"] / 32768
    frames = len(audio) // mo.SAMPLES_PER_FRAME
    cells = audio[: frames * mo.SAMPLES_PER_FRAME].reshape(frames, -1)
    loud = np.sqrt((cells**2).mean(1)) > 0.02
    jaw = jaw[:frames]
    assert jaw[loud].mean() > jaw[~loud].mean() + 0.02
