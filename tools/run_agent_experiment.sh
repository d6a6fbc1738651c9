#!/usr/bin/env bash
# Start the research loop in this workspace, show how far it is, and end with its table.
#
#     tools/run_agent_experiment.sh [TAG] [flags of tools/agent_loop.py]
#
# In a terminal: a bar that moves. Elsewhere: a line for each change. Ctrl-C once stops the loop cleanly, twice at once.
# The loop's own output goes to logs/TAG/agent_loop.log; agent_status.txt there is what is polled.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/following.sh
source "$here/following.sh"
tag=${RUN_TAG:-agent-$(date -u +%Y%m%d-%H%M%S)}
choose_tag "$@"
find_python "$here"

folder=logs/$tag
status=$folder/agent_status.txt
run_status=$folder/train_status.txt
log=$folder/agent_loop.log
mkdir -p "$folder"

# A process group of its own: Ctrl-C reaches this script alone, which passes it on once.
set -m
"$python" "$here/agent_loop.py" --tag "$tag" ${arguments[@]+"${arguments[@]}"} >"$log" 2>&1 &
loop=$!
set +m

# the loop takes the first as "stop cleanly" and the second as "at once"
trap 'kill -TERM "$loop" 2>/dev/null || true' INT TERM HUP

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

follow "$loop"

if [[ $code -ne 0 && $code -ne 130 ]]; then
    tail -n 20 "$log" >&2
fi
if ! "$python" -m autoresearch history "$tag"; then
    echo "the loop's own words are in $log" >&2
fi
exit "$code"
