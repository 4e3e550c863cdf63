#!/usr/bin/env bash
#SBATCH --job-name=rectified-lpjepa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=12
#SBATCH --time=48:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

# Rectified LpJEPA on ImageNet-100, on one node:
#   sbatch sbatch_scripts/imagenet_torch_run.sh [data.train_path=… data.val_path=…] [key=value …]
# More GPUs: --ntasks-per-node and --gpus-per-node alike, before the script's name. The recipe's
# batch size is per GPU.
set -euo pipefail
. "$SLURM_SUBMIT_DIR/sbatch_scripts/common.sh"

under_srun main_pretrain.py --config-path scripts/pretrain/imagenet-100/ \
    --config-name=rectified_lpjepa_imagenet.yaml "$@"
