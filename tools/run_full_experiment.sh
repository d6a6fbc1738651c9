#!/usr/bin/env bash
# The whole pipeline in this workspace: train -> quantize -> (benchmark) -> convert -> verify, with a bar for the phase that runs.
#
#     tools/run_full_experiment.sh [TAG] [--benchmark] [--contract P] [--bits 2,3,4] [--resume] [flags of `autoresearch experiment`]
#
# In a terminal: bars that move, drawn from train_status.txt, quant_status.txt and bench_status.txt. Elsewhere: a line for each
# change. Results are in EXPERIMENT_LOG.md and logs/TAG/ after each phase. What is done is not done again: --resume goes on after a
# failure, a kill or a Ctrl-C.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/following.sh
source "$here/following.sh"
for argument in "$@"; do
    if [[ $argument == -h || $argument == --help ]]; then
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
    fi
done

tag=${RUN_TAG:-experiment-$(date -u +%Y%m%d-%H%M%S)}
choose_tag "$@"
find_python "$here"

folder=logs/$tag
overall=$folder/experiment_status.txt
log=$folder/experiment.log
mkdir -p "$folder"

status_file_of() { # phase: the file that says how far it is
    case $1 in
        train) echo "$folder/train_status.txt" ;;
        quantize) echo "$folder/quant_status.txt" ;;
        benchmark) echo "$folder/bench_status.txt" ;;
        *) echo "$overall" ;;
    esac
}

# A process group of its own: Ctrl-C reaches this script alone, which passes it on once.
set -m
"$python" -m autoresearch experiment "$tag" ${arguments[@]+"${arguments[@]}"} >"$log" 2>&1 &
run=$!
set +m

trap 'kill -TERM "$run" 2>/dev/null || true' INT TERM HUP

frame=0
said=""
phase=""

show() {
    # a status file that another process wrote is an old one
    [[ $(value_of "$overall" pid) == "$run" ]] || return 0
    local now step part message file
    now=$(value_of "$overall" phase)
    if [[ $now != "$phase" && $now != ended ]]; then
        if $is_terminal && [[ -n $phase ]]; then
            printf '\r\033[K  %s %-10s done\n' "$(bar 1 24)" "$phase"
        fi
        phase=$now
    fi
    [[ -n $phase ]] || return 0
    file=$(status_file_of "$phase")
    step=$(value_of "$file" phase)
    part=$(value_of "$file" progress)
    message=$(value_of "$file" message)
    if [[ $file == "$overall" ]]; then
        step="" part=0
    fi
    if $is_terminal; then
        local line
        line="${spinner[frame++ % 4]} $(bar "${part:-0}" 24) $phase $step $message"
        printf '\r\033[K%s' "${line:0:$((${COLUMNS:-80} - 1))}"
    elif [[ "$phase $step" != "$said" ]]; then
        printf '%s  %s  %s\n' "$phase" "${step:--}" "$message"
        said="$phase $step"
    fi
}

follow "$run"

if [[ $code -eq 0 ]]; then
    cat "$log"
else
    tail -n 25 "$log" >&2
fi
echo "results: EXPERIMENT_LOG.md and $folder"
exit "$code"
