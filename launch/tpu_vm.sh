#!/usr/bin/env bash
# Make a TPU VM, install this commit on it and run one command on all its workers.
#   bash launch/tpu_vm.sh --name NAME --zone ZONE [--type v4-8] -- \
#     python -m toktalk_jax.train --config configs/base.py:v4-8 \
#     --config.dataset DIR --workdir DIR
#   --spot       may be preempted, and is cheaper        --queue   wait for a free one
#   --runtime V  other than the type's usual software    --delete  when it is done
#   --dry_run    print the commands, run nothing
# The workers of a pod find each other; dataset and workdir lie on a file system that all
# of them mount. Run again, it uses the VM that is there, and the training resumes.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,10s/^# \{0,1\}//p' launch/tpu_vm.sh; }
fail() { echo "tpu_vm: $1" >&2; exit 2; }
name="" zone="" type="v4-8" runtime="" spot="" queue="" delete="" dry=""
while [[ $# -gt 0 ]]; do
  case "$1" in
    --name | --zone | --type | --runtime)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      declare "${1#--}=$2"; shift 2 ;;
    --spot | --queue | --delete) declare "${1#--}=yes"; shift ;;
    --dry_run) dry=yes; shift ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown argument $1; --help lists them" ;;
  esac
done
[[ -n "$name" ]] || fail "--name is missing"
[[ -n "$zone" ]] || fail "--zone is missing"
[[ $# -gt 0 ]] || fail "no command; give it after --"
if [[ -z "$runtime" ]]; then
  case "$type" in
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "no usual software is known for --type $type; name one with --runtime" ;;
  esac
fi
[[ -n "$dry" ]] || command -v gcloud >/dev/null || fail "no gcloud here; install its SDK"

run() { if [[ -n "$dry" ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }
tpus=(gcloud compute tpus)
state() { "${tpus[@]}" tpu-vm describe "$name" --zone="$zone" --format="value(state)"; }
remote() { run "${tpus[@]}" tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

if [[ -n "$dry" || -z "$(state 2>/dev/null)" ]]; then
  what=(--zone="$zone" --accelerator-type="$type" ${spot:+--spot})
  if [[ -n "$queue" ]]; then
    run "${tpus[@]}" queued-resources create "$name" --node-id="$name" \
      "${what[@]}" --runtime-version="$runtime"
    until [[ -n "$dry" || "$(state 2>/dev/null)" == READY ]]; do sleep 30; done
  else
    run "${tpus[@]}" tpu-vm create "$name" "${what[@]}" --version="$runtime"
  fi
fi
archive="$(mktemp -d)/toktalk.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
run git archive --output="$archive" HEAD
run "${tpus[@]}" tpu-vm scp "$archive" "$name:" --zone="$zone" --worker=all
# The image's own Python is older than 3.11.
remote "mkdir -p toktalk && tar -xzf toktalk.tar.gz -C toktalk && cd toktalk \
&& python3 -m pip install --quiet --user uv \
&& { [ -d .venv ] || python3 -m uv venv --quiet --python 3.11 .venv; } \
&& python3 -m uv pip install --quiet --python .venv/bin/python \
--constraint launch/constraints.txt --editable '.[tpu]'"
remote "cd toktalk && . .venv/bin/activate && $(printf '%q ' "$@")"
if [[ -n "$delete" ]]; then
  if [[ -n "$queue" ]]; then
    run "${tpus[@]}" queued-resources delete "$name" --zone="$zone" --force --quiet
  else
    run "${tpus[@]}" tpu-vm delete "$name" --zone="$zone" --quiet
  fi
fi
