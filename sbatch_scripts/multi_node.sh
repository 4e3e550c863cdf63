#!/usr/bin/env bash
#SBATCH --job-name=solo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=48:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

# Any recipe on several nodes:
#   sbatch --nodes=4 sbatch_scripts/multi_node.sh --config-path … --config-name … [key=value …]
set -euo pipefail
. "$SLURM_SUBMIT_DIR/sbatch_scripts/common.sh"

under_srun main_pretrain.py "$@"
