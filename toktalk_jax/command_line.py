"""How the entry points read their command line, and what a user sees of an error."""

import contextlib
import os
import sys

from absl import app, flags

from toktalk_jax import host_memory


def run(main):
    """`app.run(main)`, with a mistyped flag or config key told in one line."""
    host_memory.keep_freed()
    app.run(main, flags_parser=_parse)


def _parse(argv):
    program = argv[0].rpartition("/")[2].removesuffix(".py")
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections names the key and the nearest one that exists.
        told = error.args[0]
    except flags.Error as error:
        # A config file that cannot be read comes with its traceback: the end says why.
        told = str(error).strip().rpartition("\n")[2].strip()
        told = told.removeprefix("ValueError: ") + "; --help lists what there is"
    print(f"{program}: {told}", file=sys.stderr)
    raise SystemExit(1)


@contextlib.contextmanager
def one_line_errors(program):
    """Tell of bad input, a full disk or a run gone wrong in one line; exit code 1.

    TOKTALK_TRACEBACK=1 shows where it came from.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("TOKTALK_TRACEBACK"):
            raise
        raise SystemExit(f"{program}: {error}") from None
