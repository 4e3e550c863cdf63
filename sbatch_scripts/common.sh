# Sourced by the job scripts of this folder, which run from the repository's root.

cd "$SLURM_SUBMIT_DIR"
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not inherit it

# requeue_if_stopped CODE: a run that a signal ended (preemption, or the end of its time) has saved
# its state and exits with 128 + the signal's number: then the job goes back into the queue, where it
# continues. Exits with the code.
requeue_if_stopped() {
    if [ "$1" -eq 138 ] || [ "$1" -eq 143 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$1"
}

# under_srun PROGRAM ARGUMENTS…: one process a GPU, on every node of the job.
under_srun() {
    local code=0
    # The first process writes a report after the others have ended; --wait bounds how long it may.
    srun --kill-on-bad-exit=0 --wait=600 python "$@" \
        "devices=${SLURM_NTASKS_PER_NODE:-1}" "num_nodes=$SLURM_NNODES" \
        auto_resume.enabled=true || code=$?
    requeue_if_stopped "$code"
}
