#!/usr/bin/env bash
# A Slurm of one node with 2 CPUs on this machine, or of several, for root:
#   cluster.sh start FOLDER PORT [NODES]   (and the ports after it, one for each node)
#   cluster.sh stop FOLDER
set -euo pipefail
folder=$2
export SLURM_CONF=$folder/slurm.conf

start() {
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munge.pid" --log-file="$folder/munge.log" \
        --seed-file="$folder/munge.seed" 2> "$folder/munge.err"
    local host
    host=$(hostname -s)
    cat > "$SLURM_CONF" << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node[1-$2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$(($1 + 1))-$(($1 + $2))] \
CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 State=UP
CONF
    slurmctld
    for ((number = 1; number <= $2; number++)); do
        mkdir -p "$folder/spool/node$number"
        slurmd -N "node$number"
    done
}

stop() {
    scancel --user=root --quiet || true
    for file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munge.pid"; do
        if [ -f "$file" ]; then kill "$(cat "$file")" || true; fi
    done
}

case $1 in
    start) start "$3" "${4:-1}" ;;
    stop) stop ;;
esac
