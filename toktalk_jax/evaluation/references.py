"""What the style encoder is shown of a clip that is scored: the rows of Table 3.

A reference is raw motion [R, F] of at most FRAMES frames.
"""

from toktalk_jax.data import windows
from toktalk_jax.evaluation import predict

FRAMES = 50


def _another_clip(clip, by_speaker, train, scored):
    """What a user would give, never a frame of the clip itself.

    The speaker's first training clip; for one that training never saw, another clip of
    the split; failing both, the first training clip.
    """
    own = by_speaker[clip.speaker_id]
    other = next((c for c in own if not same(c, clip)), None)
    return (other or train[0]).motion[:FRAMES]


def _same_window(clip, by_speaker, train, scored):
    """The scored frames themselves, as the paper's text has it."""
    frames = windows.frames_of(clip)
    first = frames // 2 if scored == "second_half" else 0
    return clip.motion[first : max(frames, first + 1)][:FRAMES]


def _first_half(clip, by_speaker, train, scored):
    """Frames of the same clip that `scored="second_half"` leaves out."""
    return clip.motion[: max(windows.frames_of(clip) // 2, 1)][:FRAMES]


def _wrong_speaker(clip, by_speaker, train, scored):
    """The first clip of the next speaker, by name."""
    names = sorted(by_speaker)
    if len(names) < 2:
        raise ValueError(
            f"style 'wrong_speaker' needs two speakers; the dataset has {names}"
        )
    other = names[(names.index(clip.speaker_id) + 1) % len(names)]
    return by_speaker[other][0].motion[:FRAMES]


# What the style encoder is shown; None shows it nothing.
STYLES = {
    "another_clip": _another_clip,
    "same_window": _same_window,
    "first_half": _first_half,
    "wrong_speaker": _wrong_speaker,
    "none": None,
    "mean_offset": None,  # another clip's mean pose, added to what no style gives
}


def same(a, b):
    """Whether two clips are one."""
    return predict.name_of(a) == predict.name_of(b)


def without_another(clips, train):
    """The clips to which `another_clip` shows a stranger's, for want of another."""
    return [
        clip
        for clip in clips
        if not any(
            other.speaker_id == clip.speaker_id and not same(other, clip)
            for other in (*train, *clips)
        )
    ]


def of_clips(clips, train, style, scored="all"):
    """[reference motion [R, F]] of every clip; `scored` is a name of `task.SCORED`.

    Whatever order the clips come in: a "first" clip is the first by name.
    """
    by_name = lambda part: sorted(part, key=lambda c: (c.corpus, c.clip_id))  # noqa: E731
    train, by_speaker = by_name(train), {}
    for clip in (*train, *by_name(clips)):
        by_speaker.setdefault(clip.speaker_id, []).append(clip)
    return [STYLES[style](clip, by_speaker, train, scored) for clip in clips]
