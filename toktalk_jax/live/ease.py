"""Poses between poses: an eased return to rest, and a join without a jump."""

import numpy as np

REST_FRAMES = 12
JOIN_FRAMES = 5


def to_rest(last):
    """The way from the last frames to the neutral face.

    Args:
      last: [1 or 2, F] raw coefficients, newest last; of two the speed is kept on.

    Returns:
      [12, F]: a quintic that begins with the pose and speed of `last` and ends at zero,
      at rest; its jerk stays finite.
    """
    pose = last[-1].astype(np.float64)
    speed = (last[-1] - last[0]).astype(np.float64) * REST_FRAMES
    t = np.arange(1, REST_FRAMES + 1)[:, None] / REST_FRAMES
    # Hermite basis of a start with pose, speed and no acceleration; ends all zero.
    by_pose = 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
    by_speed = t - 6 * t**3 + 8 * t**4 - 3 * t**5
    return (by_pose * pose[None] + by_speed * speed[None]).astype(np.float32)


def join(motion, last):
    """Motion [C, F] that goes on from the frames `last` [1 or 2, F] without a jump.

    The gap at the first frame fades over five frames.
    """
    begin = 2 * last[-1] - last[0] if len(last) > 1 else last[-1]
    count = min(JOIN_FRAMES, len(motion))
    t = np.arange(count)[:, None] / JOIN_FRAMES
    fade = 1 - t**2 * (3 - 2 * t)
    out = motion.copy()
    out[:count] += (fade * (begin - motion[0])[None]).astype(motion.dtype)
    return out
