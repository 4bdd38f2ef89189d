#!/usr/bin/env bash
# Two machines, step by step: bash two_machines.sh host on the first, then bash two_machines.sh join on the second.
# In a shell of your own, type what stands in the functions. PUBLIC is the address by which others reach the first.
set -euo pipefail
PUBLIC=${PUBLIC:-203.0.113.5}
PORT=${PORT:-7000} # and PORT + 1, for bulk: both are to be forwarded or opened
FOLDER=${FOLDER:-.}

# The first machine: coordinates, trains too, and writes a ticket that only its owner may read.
host() {
    cd "$FOLDER"
    [ -e RUN.toml ] || diloco init RUN.toml
    exec diloco host RUN.toml --train --listen "0.0.0.0:$PORT" --advertise "$PUBLIC:$PORT" \
        --state host-state --ticket-file ticket
}

# Between the two: the ticket is a secret, so it goes over ssh and never stands on a command line.
#   scp first:ticket ticket

# The second machine: needs no port of its own, since the first accepts connections.
join() {
    cd "$FOLDER"
    exec diloco join @ticket --no-listen --state worker-state --save model.safetensors
}

case ${1:-} in
    host | join) "$1" ;;
    *) echo "usage: $0 host|join" >&2 && exit 2 ;;
esac
