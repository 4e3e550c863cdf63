#!/usr/bin/env bash
#SBATCH --job-name=solo-sweep
#SBATCH --array=0-14
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out

# The sparsity-performance curve: one array task for each mean shift mu and shape p of the target.
#   sbatch sbatch_scripts/sweep_mu_p.sh [--config-path … --config-name …] [key=value …]
# Runs are named sweep-<array job>-mu<mu>-p<p>.
set -euo pipefail
. "$SLURM_SUBMIT_DIR/sbatch_scripts/common.sh"

mus=(-3 -2 -1 0 1)
ps=(0.5 1 2)
mu=${mus[$((SLURM_ARRAY_TASK_ID / ${#ps[@]}))]}
p=${ps[$((SLURM_ARRAY_TASK_ID % ${#ps[@]}))]}

under_srun main_pretrain.py "$@" \
    "name=sweep-$SLURM_ARRAY_JOB_ID-mu$mu-p$p" method_kwargs.target_l0=null \
    "method_kwargs.mean_shift_value=$mu" "method_kwargs.lp_norm_parameter=$p"
