#!/usr/bin/env bash
# From nothing to a talking head: make a small corpus, train, evaluate, animate, watch.
#   bash launch/quickstart.sh [--wav FILE | --text "..."] [--out DIR]
#   --wav FILE   animate this sound         --text "..."  speak and animate this text
#   --out DIR    where everything goes (default: runs/quickstart)
# Makes .venv on the first run. Six minutes on two CPU cores, three on a second run.
set -euo pipefail
here="$PWD"
cd "$(dirname "$0")/.."

usage() { sed -n '2,6s/^# \{0,1\}//p' launch/quickstart.sh; }
wav="" text="" out="runs/quickstart"
while [[ $# -gt 0 ]]; do
  case "$1" in
    --wav | --text | --out)
      [[ $# -ge 2 ]] || { echo "quickstart: $1 needs a value" >&2; usage >&2; exit 2; }
      declare "${1#--}=$2"; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) echo "quickstart: unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
done
if [[ -n "$wav" && -n "$text" ]]; then
  echo "quickstart: give --wav or --text, not both" >&2; exit 2
fi
# Paths are the caller's, not the repository's.
[[ -z "$wav" || "$wav" == /* ]] || wav="$here/$wav"
[[ "$out" == /* ]] || out="$here/$out"
if [[ -n "$wav" && ! -f "$wav" ]]; then
  echo "quickstart: no sound file at $wav" >&2; exit 2
fi
[[ -n "$wav$text" ]] || text="Hello! I turn the tokens of speech into a moving face, one small chunk at a time."

source launch/environment.sh demo

echo "1/4 performing and tokenising a corpus of 60 s"
python -m tools.export_tokens --corpus performer --seconds 60 \
  --tokenizer mel_rvq --with_audio --out "$out/dataset"
echo "2/4 training the small model"
python -m toktalk_jax.train --config configs/small.py:quickstart \
  --config.dataset="$out/dataset" --workdir "$out/run"
echo "3/4 scoring it on clips it never saw"
python -m toktalk_jax.evaluate --config configs/small.py:quickstart \
  --config.dataset="$out/dataset" --workdir "$out/run" --rows stream,static
echo "4/4 animating with the shipped checkpoint, 0.4 s at a time"
if [[ -n "$wav" ]]; then source_flag="--wav=$wav"; else source_flag="--text=$text"; fi
python -m toktalk_jax.sample --workdir small "$source_flag" --out "$out" \
  --evaluation "$out/run/evaluation.json"
echo
echo "open $out/watch.html in a browser"
