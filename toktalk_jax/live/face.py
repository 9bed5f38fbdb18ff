"""The served face as other programs know it: its head, and the rig of ARKit weights."""

import functools
from typing import NamedTuple

import numpy as np

from toktalk_jax import motion as mo
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
    """`Face` of the stand-in, made and compiled: seconds, once in a process."""
    head = assets.load_head()
    rig = arkit.prepare(head)
    arkit.to_arkit(rig, np.zeros((1, mo.F), np.float32))  # one program for any length
    return Face(head, rig)
