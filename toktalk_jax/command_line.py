"""How the entry points read their command line."""

import sys

from absl import app


def run(main):
    """`app.run(main)`, with a mistyped config key told in one line."""
    app.run(main, flags_parser=_parse)


def _parse(argv):
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections names the key and the nearest one that exists.
        program = argv[0].rpartition("/")[2].removesuffix(".py")
        print(f"{program}: {error.args[0]}", file=sys.stderr)
        raise SystemExit(1) from None
