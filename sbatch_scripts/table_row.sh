#!/usr/bin/env bash
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

# One run of a table, trained and evaluated; submitted by
#   python scripts/utils/reproduce.py <table> --slurm="<options of sbatch>"
set -euo pipefail
. "$SLURM_SUBMIT_DIR/sbatch_scripts/common.sh"

code=0
python scripts/utils/reproduce.py "$@" || code=$?
requeue_if_stopped "$code"
