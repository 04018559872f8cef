#!/usr/bin/env bash
# One node's part of the training: activates the virtual environment, checks the node, starts a process per GPU.
#
#     bash /root/<project>/launch.sh [arguments of train.py]
#
# The ISC runs it on every node, with the variables named below; it can be called from any directory.
# VENV names the virtual environment, if it is not the one that is active and not /opt/venv.
set -euo pipefail
ISC_RUNTIME_STARTED=$(date +%s) # a training says how much of its time the start took
export ISC_RUNTIME_STARTED

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 3 # isc_runtime.errors.ExitCode.UNFIT
}

cd -- "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"

missing=""
for name in NNODES N_PROC MASTER_ADDR MASTER_PORT NODE_RANK; do
    [[ -n ${!name:-} ]] || missing+="${missing:+, }$name"
done
if [[ -n $missing ]]; then
    fail "Environment variables are not set: $missing. The ISC sets them on every node; to train elsewhere use 'python train.py', or 'torchrun --nproc-per-node=2 train.py'."
fi

has_torch() {
    python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null
}

venv=${VENV:-${VIRTUAL_ENV:-/opt/venv}}
if [[ -x $venv/bin/python ]]; then
    # What bin/activate does, but for the prompt; it holds no path from the day the environment was made.
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    unset PYTHONHOME
elif [[ -n ${VENV:-} ]] || ! has_torch; then # a python with torch, first in PATH, does as well: conda, a laptop
    fail "No Python in this virtual environment: $venv. Make it as the Dockerfile does, or set VENV to the one that has torch."
fi

export PYTHONUNBUFFERED=1 # the ISC syncs the log every few seconds: what is said must be in it

# Is this node ready to train, and are all the others there?
ISC_RUNTIME_MEET=1 python -m isc_runtime preflight "$@"
export ISC_RUNTIME_STAGE_1=said # each rank checks this again, and need not say it again

# torchrun, but with the exit code of the rank that failed.
exec python -m isc_runtime torchrun \
    --nnodes "$NNODES" --nproc-per-node "$N_PROC" --node-rank "$NODE_RANK" \
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    train.py "$@"
