"""Who is held out: seeded shuffles by clip, actor or speaker."""

import numpy as np


def shares(names, validation=1 / 8, test=1 / 8, seed=0):
    """{name: split}: a seeded shuffle, its end held out, at least one name each.

    Args:
      names: clips, actors or speakers; their order does not matter.
      validation, test: shares of the names.

    Raises:
      ValueError: fewer than three names: nobody could be held out.
    """
    count = [max(1, round(len(names) * share)) for share in (validation, test)]
    return last(names, *count, seed)


def last(names, validation, test, seed=0):
    """{name: split}: of a seeded shuffle the last `test` names, those before, the rest.

    DiffPoseTalk's rule by speaker, with 64 and 64 of 588.
    """
    names = sorted(names)
    if len(names) <= validation + test:
        raise ValueError(
            f"{len(names)} speakers or clips are too few to hold out {validation} for "
            f"validation and {test} for test"
        )
    order = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    train = len(names) - validation - test
    return {
        name: "train"
        if k < train
        else "validation"
        if k < train + validation
        else "test"
        for k, name in enumerate(order)
    }
