#!/usr/bin/env bash
# Any recipe on a list of machines, without Slurm, over ssh:
#   sbatch_scripts/over_ssh.sh HOSTS PROCESSES [key=value …]
# HOSTS: a file with a name in each line, the first one's address known to all; PROCESSES: on each
# machine, one a GPU. All see this folder, and checkpoint.dir, under the same path. If a machine is
# lost, the others end with a message; the same command goes on from the last save.
set -euo pipefail
mapfile -t hosts < "$1"
processes=$2
shift 2
port=${MASTER_PORT:-29500}
printf -v words ' %q' "$@" "devices=$processes" "num_nodes=${#hosts[@]}" auto_resume.enabled=true
started=()
for rank in "${!hosts[@]}"; do
    ssh "${hosts[$rank]}" "cd $(printf %q "$PWD") &&
        if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi &&
        exec python -m torch.distributed.run --nnodes=${#hosts[@]} --nproc-per-node=$processes \
            --node-rank=$rank --master-addr=${hosts[0]} --master-port=$port main_pretrain.py$words" &
    started+=($!)
done
code=0
for process in "${started[@]}"; do
    wait "$process" || code=$?
done
exit "$code"
