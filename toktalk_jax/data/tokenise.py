"""Clips to token embeddings, one by one or in batches, and what cannot be tokenised."""

import math

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data import schema


def tokenise(clips, tokenizer):
    """For each clip (codes [S, Q] int32 or None, embeddings [S, A] f32), or a BadClip.

    A BadClip is one that the tokenizer refuses, or whose tokens do not cover it.
    """
    # A speech generator's stream is no function of the sound.
    heard = [c.states if tokenizer.name == "hibari" else c.audio for c in clips]
    try:
        if tokenizer.batch > 1:
            found = tokenizer.many(heard)
        else:
            of = tokenizer.encode if tokenizer.num_codes else tokenizer.embed
            found = [of(sound) for sound in heard]
    except ValueError as error:
        if len(clips) == 1:
            return [schema.BadClip(str(error))]
        return [made for clip in clips for made in tokenise([clip], tokenizer)]
    if tokenizer.num_codes:
        pairs = [(codes, tokenizer.decode(codes)) for codes in found]
    else:
        pairs = [(None, tokens) for tokens in found]
    return [
        _problem(clip, tokens, tokenizer) or (codes, tokens)
        for clip, (codes, tokens) in zip(clips, pairs, strict=True)
    ]


def _problem(clip, tokens, tokenizer):
    """The BadClip that a clip with these tokens is, or None."""
    seconds = len(clip.audio) / mo.SAMPLE_RATE
    if len(tokens) < math.floor(seconds * tokenizer.rate_hz):
        return schema.BadClip(
            f"{len(tokens)} tokens at {tokenizer.rate_hz} Hz do not cover its "
            f"{seconds:.2f} s"
        )
    if not np.isfinite(tokens).all():
        return schema.BadClip("its token embeddings hold NaN or Inf values")
    return None
