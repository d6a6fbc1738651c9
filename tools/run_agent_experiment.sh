#!/usr/bin/env bash
# Start the research loop in this workspace, show how far it is, and end with its table.
#
#     tools/run_agent_experiment.sh [TAG] [flags of tools/agent_loop.py]
#
# In a terminal: a bar that moves. Elsewhere: a line for each change. Ctrl-C once stops the loop cleanly, twice at once.
# The loop's own output goes to logs/TAG/agent_loop.log; agent_status.txt there is what is polled.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tag=${RUN_TAG:-agent-$(date -u +%Y%m%d-%H%M%S)}
if [[ $# -gt 0 && $1 != -* ]]; then
    tag=$1
    shift
fi
if [[ ! $tag =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
    echo "not a tag: $tag (letters, digits, dot, dash and underscore)" >&2
    exit 2
fi

python=${PYTHON:-python3}
for candidate in "$PWD/.venv/bin/python" "$here/../.venv/bin/python"; do
    if [[ -z ${PYTHON:-} && -x $candidate ]]; then
        python=$candidate
        break
    fi
done

folder=logs/$tag
status=$folder/agent_status.txt
run_status=$folder/train_status.txt
log=$folder/agent_loop.log
mkdir -p "$folder"

value_of() { # file, key: its value, with nothing in it that could drive the terminal
    [[ -f $1 ]] || return 0
    sed -n "s/^$2=//p" "$1" | head -n 1 | tr -d '\000-\037\177'
}

bar() { # fraction 0..1, width
    awk -v part="$1" -v width="$2" 'BEGIN {
        if (part < 0) part = 0; if (part > 1) part = 1
        full = int(part * width + 0.5); line = ""
        for (i = 0; i < width; i++) line = line (i < full ? "#" : ".")
        printf "%s %3d%%", line, part * 100
    }'
}

# A process group of its own: Ctrl-C reaches this script alone, which passes it on once.
set -m
"$python" "$here/agent_loop.py" --tag "$tag" "$@" >"$log" 2>&1 &
loop=$!
set +m

# the loop takes the first as "stop cleanly" and the second as "at once"
trap 'kill -TERM "$loop" 2>/dev/null || true' INT TERM HUP

is_terminal=false
if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then
    is_terminal=true
fi
spinner=('|' '/' '-' "\\")
frame=0
said=""

show() {
    # a status file that another process wrote is an old one
    [[ $(value_of "$status" pid) == "$loop" ]] || return 0
    local phase experiment message score counts head
    phase=$(value_of "$status" phase)
    experiment=$(value_of "$status" experiment)
    message=$(value_of "$status" message)
    score=$(value_of "$status" incumbent_val_bpb)
    counts="$(value_of "$status" keeps) kept, $(value_of "$status" discards) discarded, $(value_of "$status" crashes) crashed"
    head="#$experiment $phase"
    if $is_terminal; then
        local part line
        part=$(value_of "$run_status" progress)
        line="${spinner[frame++ % 4]} $(bar "${part:-0}" 20) $head  best ${score:--}  $counts  $message"
        printf '\r\033[K%s' "${line:0:$((${COLUMNS:-80} - 1))}"
    elif [[ $head != "$said" ]]; then
        printf '%s  best %s  %s  %s\n' "$head" "${score:--}" "$counts" "$message"
        said=$head
    fi
}

while kill -0 "$loop" 2>/dev/null; do
    show
    sleep "${POLL_SECONDS:-1}" &
    wait $! 2>/dev/null || true # a trap interrupts wait, and not a sleep in the foreground
done
code=0
wait "$loop" || code=$?
trap - INT TERM HUP
if $is_terminal; then
    printf '\r\033[K'
fi

if [[ $code -ne 0 && $code -ne 130 ]]; then
    tail -n 20 "$log" >&2
fi
if ! "$python" -m autoresearch history "$tag"; then
    echo "the loop's own words are in $log" >&2
fi
exit "$code"
