"""Latency of the first frame: its parts, what is assumed, what cannot be timed."""

import dataclasses
import types

import numpy as np
import pytest

from tests import tiny_corpus
from toktalk_jax import latency
from toktalk_jax.tokenizers.ahead import Ahead


@pytest.mark.parametrize(("chunk_s", "ttftb"), [(0.4, 200), (0.8, 400)])
def test_latency_adds_up(styled, chunk_s, ttftb):
    made = styled()
    made.settings["chunk_seconds"] = chunk_s
    found, notes = latency.first_chunk(made, examples=3)
    assert not notes and found["TTFTB_ms"] == pytest.approx(ttftb)
    for name in ("T_animation_ms", "tokenise_ms", "voice_ms", "chatbot_ms"):
        assert 0 < found[f"{name}_p50"] <= found[f"{name}_p95"] and found[name] > 0
    assert found["chatbot_ms_p50"] == pytest.approx(
        ttftb + max(latency.T_AUDIO_MS, found["T_animation_ms_p50"])
    )
    # The dataset holds no sound: the tokenizer is timed on noise, never left out.
    parts = 1e3 * chunk_s + found["tokenise_ms"] + found["T_animation_ms"]
    assert found["voice_ms"] == pytest.approx(parts)


def test_a_language_model_is_waited_for_as_far_as_tokens_look(styled, monkeypatch):
    """Five tokens of a chunk and two beside the last: 200 ms for five, so 280."""
    made = styled()
    facts = made.bundle.dataset | {"tokenizer": Ahead(tiny_corpus.tokenizer(), 2).name}
    monkeypatch.setattr(latency, "_tokenizer", lambda task: (None, []))
    ahead = dataclasses.replace(made, bundle=made.bundle._replace(dataset=facts))
    found, _ = latency.first_chunk(ahead, examples=1)
    assert found["TTFTB_ms"] == pytest.approx(280)
    assert found["chatbot_ms"] >= 480


def test_a_voice_waits_for_what_its_tokens_look_ahead():
    made = tiny_corpus.tokenizer()
    sound = np.zeros(3000, np.int16)
    assert latency._listen(made, sound, 5)[0] == pytest.approx(400)
    assert latency._listen(Ahead(made, 2), sound, 5)[0] == pytest.approx(560)
    slow = types.SimpleNamespace(
        **{"name": "slow", "rate_hz": 12.5},
        stream=lambda: types.SimpleNamespace(push=lambda _: np.zeros((0, 4), "f4")),
    )
    with pytest.raises(ValueError, match="slow made 0 tokens of 1.6 s"):
        latency._listen(slow, None, 5)


def test_a_tokenizer_that_cannot_be_timed_is_told(styled, monkeypatch):
    whole = types.SimpleNamespace(name="whisper", lookahead_s=np.inf)
    monkeypatch.setattr(latency, "load_tokenizer", lambda *_, **__: whole)
    found, notes = latency.first_chunk(styled(), examples=2)
    assert notes == ["no voice is timed: whisper reads the whole clip"]
    assert "tokenise_ms" not in found

    def missing(*_, **__):
        raise FileNotFoundError("no weights of lyra")

    monkeypatch.setattr(latency, "load_tokenizer", missing)
    found, notes = latency.first_chunk(styled(), examples=2)
    assert notes == ["the tokenizer is not timed: no weights of lyra"]
    assert found["T_animation_ms"] > 0 and "voice_ms" not in found
