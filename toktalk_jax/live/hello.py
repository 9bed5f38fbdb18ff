"""What a client asks for when it comes: the hello, read without trust."""

from typing import NamedTuple

from toktalk_jax import motion as mo
from toktalk_jax.live.protocol import (
    NAME_CHARS,
    OUTPUTS,
    PCM_RATES,
    SETTERS,
    VERSION,
    InputFormat,
    ProtocolError,
    is_number,
    no_others,
)
from toktalk_jax.tokenizers import hibari


class Hello(NamedTuple):
    """What a client asks for; its settings are read by `protocol.settings`.

    Attributes:
      form: `InputFormat`; seed: of the noise; resume: key of a bye, or "".
      outputs: names, in the order of a frame's columns.
    """

    form: InputFormat
    seed: int
    resume: str
    outputs: tuple


def read(message, offer):
    """`Hello` of a message, checked against a `protocol.Offer`.

    Raises:
      ProtocolError: `version` or `bad_hello`, both fatal.
    """
    if message["type"] != "hello":
        raise ProtocolError("no_hello", "the first message must be hello")
    if message.get("version") != VERSION:
        raise ProtocolError("version", f"expected version {VERSION}")
    known = {"type", "version", "input", "outputs", "seed", "resume", *SETTERS}
    try:
        no_others(message, known)
        seed = message.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ProtocolError("bad_hello", "seed: expected an integer of 32 bits")
        resume = message.get("resume", "")
        if not isinstance(resume, str) or len(resume) > NAME_CHARS:
            raise ProtocolError("bad_hello", "resume: expected the key of a bye")
        form = _input_format(message.get("input"), offer)
        return Hello(form, seed, resume, _outputs(message, offer))
    except ProtocolError as error:
        raise ProtocolError("bad_hello", str(error)) from None


def _outputs(message, offer):
    asked = message.get("outputs", ["motion"])
    known = isinstance(asked, list) and all(x in offer.outputs for x in asked)
    if not known or not asked or len(set(asked)) < len(asked):
        raise ProtocolError("bad_hello", f"outputs: expected some of {offer.outputs}")
    return tuple(name for name in OUTPUTS if name in asked)


def _input_format(raw, offer):
    if not isinstance(raw, dict) or raw.get("kind") not in ("pcm", "tokens", "text"):
        raise ProtocolError("bad_hello", 'input: expected kind "pcm", "tokens", "text"')
    if raw["kind"] == "text":
        no_others(raw, {"kind"})
        if not offer.text:
            raise ProtocolError("bad_hello", "this server does not speak; send sound")
        return InputFormat("text", hibari.Hibari.name, hibari.RATE_HZ, "", hibari.DIM)
    rate, dtype = raw.get("rate_hz"), raw.get("dtype")
    if raw["kind"] == "pcm":
        no_others(raw, {"kind", "rate_hz", "dtype", "tokenizer"})
        hears = [name for name, (_, voice) in offer.sources.items() if voice]
        if not hears:
            raise ProtocolError("bad_hello", "this server hears no sound; send tokens")
        name = raw.get("tokenizer", hears[0])
        if rate not in PCM_RATES or dtype not in ("i16", "f32") or name not in hears:
            raise ProtocolError(
                "bad_hello",
                f"pcm: expected rate_hz of {PCM_RATES}, dtype i16 or f32, tokenizer of "
                f"{hears}",
            )
        return InputFormat("pcm", name, float(rate), dtype)
    no_others(raw, {"kind", "rate_hz", "dtype", "dim", "tokenizer"})
    name, dim = raw.get("tokenizer"), raw.get("dim")
    if not isinstance(name, str) or name not in offer.sources:
        raise ProtocolError(
            "bad_hello", f"tokenizer: expected one of {list(offer.sources)}"
        )
    width = offer.sources[name][0]
    stack = rate / mo.TOKEN_HZ if is_number(rate) and rate > 0 else 0.5
    # Divided: an integer of a thousand digits times a float is none.
    fits = type(dim) is int and stack == round(stack) and dim == width / stack
    if not fits or dtype not in ("f16", "f32"):
        raise ProtocolError(
            "bad_hello",
            f"tokens of {name}: expected f16 or f32, {width} wide at 12.5 Hz, or k "
            "times the rate at a k-th of the width",
        )
    return InputFormat("tokens", name, float(rate), dtype, dim, round(stack))
