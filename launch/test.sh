#!/usr/bin/env bash
# Install the [test] extra into .venv and run ruff and pytest.
#   bash launch/test.sh          the default suite, 20 minutes on two cold cores
#   bash launch/test.sh --long   also the slow tests, an hour
# Further arguments go to pytest. PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ "${1:-}" == "--help" ]]; then sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0; fi
source launch/environment.sh test
python -m ruff check --config tools/ruff.toml .
python -m ruff format --check --config tools/ruff.toml .
# A worker per core, up to four; the tests of a file share its fixtures and stay together.
# In order of the files: largest first, two files of few long tests would be the last.
exec python -m pytest tests -q -rs -o cache_dir=.pytest_cache --durations=60 \
  --numprocesses auto --maxprocesses 4 --dist loadfile \
  --no-loadscope-reorder "$@"
