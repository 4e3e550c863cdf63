#!/usr/bin/env bash
#SBATCH --job-name=solo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

# Any recipe on one GPU:
#   sbatch sbatch_scripts/one_gpu.sh [--config-path … --config-name …] [key=value …]
set -euo pipefail
. "$SLURM_SUBMIT_DIR/sbatch_scripts/common.sh"

under_srun main_pretrain.py "$@"
