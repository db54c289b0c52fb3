#!/usr/bin/env bash
# simsam under torchrun on all GPUs of a Slurm allocation:
#
#   sbatch --nodes 4 --time 12:00:00 cluster/slurm.sh segment IMAGES OUT --config torchrun.yaml
#
# Options of sbatch stand before the script, simsam's command after it; OUT is on storage that all nodes see. The same
# command goes on where the last one stopped, so that the job may be preempted, requeued or run out of time at any
# moment: it puts itself back into the queue when its time is up, and ends for good when simsam does.
# RANKS (default: the GPUs of a node) is the number of processes on each node; without GPUs it has to be given.
#SBATCH --job-name=simsam
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-gpu=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail

if (($# == 0)); then
  echo "usage: sbatch [OPTION...] $0 segment IMAGES OUT [FLAG...]" >&2
  exit 1
fi
ranks=${RANKS:-${SLURM_GPUS_ON_NODE:-}}
if [[ -z $ranks ]]; then
  echo "this allocation has no GPUs: export RANKS=N, with --device cpu among simsam's flags" >&2
  exit 1
fi
# read whole: a reader that stops after the first line can end scontrol by a signal, and the job with it
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet

# A process that dies, on any node, makes torchrun start all of them again; more often than that, something is wrong.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$ranks" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$host:$port" --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
  -m simsam_batch "$@" &
step=$!

out_of_time=false
# Slurm's word that the time is nearly up, as --signal asks for. srun hands SIGTERM on to every process.
trap 'out_of_time=true; kill -TERM "$step" 2>/dev/null || true' USR1
trap 'kill -TERM "$step" 2>/dev/null || true' TERM INT

code=0
wait "$step" || code=$?
# A signal ends `wait`, not the step.
while kill -0 "$step" 2>/dev/null; do
  code=0
  wait "$step" || code=$?
done

if $out_of_time && ((code != 0)); then
  echo "out of time: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
