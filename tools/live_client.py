r"""Stream a wav, or say a text, to a live server and save what comes back.

    python -m toktalk_jax.serve --adapter hibari_to_small &
    python -m tools.live_client speech.wav --out motion.npz --style warm
    python -m tools.live_client --say "Hello there." --out motion.npz   # and motion.wav

Sound goes out in pieces of 80 ms: as a microphone would send it or, with --fast, as
quickly as the server's limit on queued input allows. Of the frames, those of speech are
kept; with --arkit also the 52 weights of each, as `arkit`. The wire is described in
`toktalk_jax/live/protocol.py`.
"""

import argparse
import base64
import contextlib
import os
import pathlib

import numpy as np
import soundfile
import websocket

from toktalk_jax import motion as mo
from toktalk_jax.data.audio import read_audio
from toktalk_jax.live import binary
from toktalk_jax.live.client import PIECE, Client, motion_of, sound_of


def streamed(client, audio, fast):
    """Stream sound at 16 kHz; as `sound_of`."""
    client.say(audio, pace=0.0 if fast else PIECE / mo.SAMPLE_RATE)
    client.send("end")
    client.told("ended")
    sound = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
    return sound, mo.SAMPLE_RATE


def said(client, text, out):
    """Say a text and write its sound beside `out`; the sound, as `sound_of`."""
    client.send("say", text=text)
    client.send("end")
    # It comes after an error, too.
    client.told("ended", timeout=client.ready["limits"]["max_s"])
    sound, rate = sound_of(client)
    if not len(sound):
        raise ValueError(f"nothing was said: {client.texts[-2:]}")
    soundfile.write(pathlib.Path(out).with_suffix(".wav"), sound, rate)
    names = ("ttftb_ms", "audio_ms", "animation_ms", "first_frame_ms")
    told = client.told("said")
    print(", ".join(f"{name[:-3]} {told[name]:.0f} ms" for name in names))
    return sound, rate


def parser():
    """Of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("wav", nargs="?", help="sound to stream (any rate; mono or stereo)")
    p.add_argument("--say", default="", metavar="TEXT", help="text in its place")
    p.add_argument("--url", default="ws://127.0.0.1:8000/live")
    p.add_argument("--token", default=os.environ.get("TOKTALK_TOKEN", ""))
    p.add_argument("--out", default="motion.npz", help="file to write")
    p.add_argument("--style", help="a name that the server offers, or a style .npz")
    p.add_argument("--steps", type=int)
    p.add_argument("--chunk_s", type=float)
    p.add_argument("--guidance", type=float)
    p.add_argument("--seed", type=int, default=0, help="of the noise")
    p.add_argument("--fast", action="store_true", help="not at the pace of speech")
    p.add_argument("--arkit", action="store_true", help="also ARKit-52 weights")
    return p


def hello_of(args):
    """Fields of the hello that the arguments ask for."""
    names = ("style", "steps", "chunk_s", "guidance", "seed")
    hello = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    if (args.style or "").endswith(".npz"):
        data = pathlib.Path(args.style).read_bytes()
        hello["style"] = {"npz": base64.b64encode(data).decode()}
    if args.say:
        hello["input"] = {"kind": "text"}
    return hello | ({"outputs": ["motion", "arkit"]} if args.arkit else {})


def main(arguments=None):
    """Command line."""
    args = parser().parse_args(arguments)
    if bool(args.wav) == bool(args.say):
        raise SystemExit("live_client: give a wav or --say TEXT")
    try:
        audio = read_audio(args.wav) if args.wav else None
        opened = Client(args.url, args.token, **hello_of(args))
        with contextlib.closing(opened) as client:
            if args.say:
                sound, rate = said(client, args.say, args.out)
            else:
                sound, rate = streamed(client, audio, args.fast)
    except (OSError, ValueError, websocket.WebSocketException) as error:
        raise SystemExit(f"live_client: {error}") from None
    motion = motion_of(client)
    model = client.ready["model"]
    facts = {"fps": mo.FPS, "seed": args.seed, "checkpoint": model["hash"]}
    facts |= {k: model[k] for k in ("head_joint", "face_model")}
    facts["style"] = client.ready["settings"]["style"]
    facts["chunk_frames"] = round(client.ready["settings"]["chunk_s"] * mo.FPS)
    if args.arkit:
        facts |= {"arkit": motion_of(client, name="arkit"), "arkit_names": mo.ARKIT_52}
    np.savez_compressed(args.out, motion=motion, audio=sound, sample_rate=rate, **facts)
    late = sum(bool(f.flags & binary.LATE) for f in client.frames)
    waits = [f.sent - f.buffered for f in client.frames if not f.flags & binary.REST]
    print(
        f"{args.out}: {len(motion) / mo.FPS:.2f} s of motion; from a chunk's input "
        f"to its frames {np.median(waits):.0f} ms (median); {late} chunks late"
    )


if __name__ == "__main__":
    main()
