#!/usr/bin/env bash
# A real Slurm of one node for tests: munged, slurmctld and slurmd of this user.
#   bash launch/one_node_slurm.sh start DIR   then: export SLURM_CONF=DIR/slurm.conf
#   bash launch/one_node_slurm.sh stop DIR    cancels its jobs, ends its daemons
# All state lies under DIR (keys, logs, spool, pids); no systemd, no cgroups, nothing in
# /etc. Ports are whichever are free. Needs Debian's slurm-wlm and munge.
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
fail() { echo "one_node_slurm: $1" >&2; exit 1; }
case "${1:-}" in
  --help | -h) usage; exit 0 ;;
  start | stop) [[ $# -eq 2 ]] || { usage >&2; exit 2; } ;;
  *) usage >&2; exit 2 ;;
esac
PATH="$PATH:/usr/sbin:/sbin"
mkdir -p "$2"
dir="$(cd "$2" && pwd)"
export SLURM_CONF="$dir/slurm.conf"
daemons=(slurmd slurmctld munged)

stop() {
  if [[ -f "$dir/slurmctld.pid" ]]; then
    scancel --user="$(id -un)" 2>/dev/null || true
    for _ in {1..20}; do
      [[ -n "$(squeue --noheader 2>/dev/null)" ]] || break
      sleep 0.5
    done
    scancel --user="$(id -un)" --signal=KILL --full 2>/dev/null || true
  fi
  for name in "${daemons[@]}"; do
    [[ -f "$dir/$name.pid" ]] || continue
    pid="$(<"$dir/$name.pid")"
    kill "$pid" 2>/dev/null || true
    for _ in {1..40}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$dir/$name.pid"
  done
}

[[ "$1" == start ]] || { stop; exit 0; }
for name in "${daemons[@]}" sbatch srun; do
  command -v "$name" >/dev/null || fail "no $name here; apt-get install slurm-wlm munge"
done
for name in "${daemons[@]}"; do
  [[ ! -f "$dir/$name.pid" ]] || fail "$dir/$name.pid exists: stop it first"
done
trap 'stop; fail "it did not start; its logs are $dir/*.log"' ERR
mkdir -p "$dir/state" "$dir/spool"
chmod 755 "$dir" "$dir/state" "$dir/spool"
(umask 077; head -c 128 /dev/urandom > "$dir/munge.key")
read -r ctld_port slurmd_port < <(python3 - <<'PORTS'
import socket

held = [socket.socket() for _ in range(2)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))
PORTS
)
host="$(hostname -s)"
cat > "$SLURM_CONF" <<CONF
ClusterName=one_node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_min_interval=100000,bf_interval=1
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=30
MinJobAge=300
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1024 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
  --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" \
  --seed-file="$dir/munge.seed" 2>> "$dir/munged.log"
slurmctld -c 2>> "$dir/slurmctld.log"
slurmd -c -N "$host" 2>> "$dir/slurmd.log"
for _ in {1..60}; do
  [[ "$(sinfo --noheader --format=%T 2>/dev/null)" == idle ]] && { trap - ERR; break; }
  sleep 0.5
done
[[ "$(sinfo --noheader --format=%T)" == idle ]]
echo "export SLURM_CONF=$SLURM_CONF"
