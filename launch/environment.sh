# Sourced by the other scripts: make .venv and install the package with one extra.
#   source launch/environment.sh demo|test
# Does nothing when setup.py and the constraints have not changed since.
if [[ ! -x .venv/bin/python ]]; then
  "${PYTHON:-python3}" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; "
             "set PYTHON to another interpreter")
CHECK
  "${PYTHON:-python3}" -m venv .venv
fi
source .venv/bin/activate
stamp=".venv/installed-$1"
wanted="$(cat setup.py launch/constraints.txt | sha256sum)"
if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
  echo "installing toktalk-jax[$1] into .venv ..."
  python -m pip install --quiet --disable-pip-version-check \
    --constraint launch/constraints.txt --editable ".[$1]"
  # PyTorch for the parity tests, never with gigabytes of CUDA packages: on Linux only a
  # build marked as CPU will do, elsewhere every build is one.
  if [[ "$1" == test ]]; then
    torch="torch==2.13.0$([[ "$(uname)" != Linux ]] || echo +cpu)"
    python -m pip install --quiet --disable-pip-version-check \
      --constraint launch/constraints.txt "$torch" 2>/dev/null ||
      echo "no CPU build of PyTorch in reach: the parity tests will skip"
  fi
  echo "$wanted" > "$stamp"
fi
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.jax_cache}"
