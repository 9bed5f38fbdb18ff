"""The served face as other programs know it: its head, and the rig of ARKit weights."""

import functools
from typing import NamedTuple

from toktalk_jax.flame import arkit, assets


class Face(NamedTuple):
    """head: `assets.Head`; rig: `arkit.Rig` of it."""

    head: object
    rig: object


def known(bundle):
    """Whether the bundle moves the stand-in, whose landmark map is shipped."""
    return bundle.dataset["face_model"] == "stand_in"


@functools.cache
def stand_in():
    """`Face` of the stand-in: seconds, once in a process."""
    head = assets.load_head()
    return Face(head, arkit.prepare(head))
