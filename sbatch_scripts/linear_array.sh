#!/usr/bin/env bash
#SBATCH --job-name=solo-linear
#SBATCH --array=0-14
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out

# Linear evaluation of every run of a finished array (sweep_mu_p.sh), one array task each:
#   sbatch --dependency=afterany:<array job> sbatch_scripts/linear_array.sh <array job> \
#       [--config-name linear] [key=value …]
# RUNS=<folder> says where the runs are, if not in trained_models.
set -euo pipefail
. "$SLURM_SUBMIT_DIR/sbatch_scripts/common.sh"

runs=("${RUNS:-trained_models}"/*/sweep-"$1"-*/)
if [ ! -e "${runs[0]}" ]; then
    echo "There is no run sweep-$1-* in ${RUNS:-trained_models}" >&2
    exit 1
fi
if [ "$SLURM_ARRAY_TASK_ID" -ge "${#runs[@]}" ]; then exit 0; fi
run=${runs[$SLURM_ARRAY_TASK_ID]%/}

under_srun main_linear.py "${@:2}" \
    "pretrained=$run" "name=linear-$(basename "$run")" "checkpoint.dir=${RUNS:-trained_models}"
