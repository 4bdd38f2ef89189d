#!/bin/bash
# Four workers on a cluster: sbatch slurm.sh. The host runs elsewhere (a small rented machine, say); its ticket lies in
# a file that only you may read, and is named here, never written out. A job that is preempted, or whose time is
# over, leaves in order and is queued again: the same worker, which goes on from its folder.
#SBATCH --job-name=diloco
#SBATCH --array=0-3
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=diloco-%a.log
#SBATCH --open-mode=append
set -u
TICKET=${TICKET:-$HOME/.config/diloco/ticket}
FOLDER=${FOLDER:-$HOME/diloco} # on a disk that all nodes see
PORT=$((7000 + 2 * SLURM_ARRAY_TASK_ID)) # and the one after it, for bulk, should two workers be on one node

# Nodes reach each other and the host. Workers outside cannot dial them: those need open ports.
diloco join "@$TICKET" --name "slurm-$SLURM_ARRAY_TASK_ID" --state "$FOLDER/worker-$SLURM_ARRAY_TASK_ID" \
    --listen "0.0.0.0:$PORT" --threads "$SLURM_CPUS_PER_TASK" --notice 110 &
worker=$!
trap 'kill -TERM "$worker"' TERM # from the scheduler, before the time is over or at a preemption

wait "$worker"
code=$?
while kill -0 "$worker" 2>/dev/null; do # the signal ended the wait, not the worker
    wait "$worker"
    code=$?
done
# 130: it was interrupted and left in order. 75: nobody answered. Both may be tried again; 2 is for a person to mend.
case $code in 130 | 75) scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ;; esac
exit "$code"
