# shellcheck shell=bash
# What the two scripts beside this one share: sourced by them with a default of `tag` set; nothing to run.
#
# choose_tag "$@"   sets `tag` to the first argument where that is one, and `arguments` to the rest; ends with 2 where it is no tag
# find_python DIR   sets `python`: $PYTHON, else the .venv of this folder, else that of the checkout around DIR
# value_of, bar     read a status file, draw a bar
# follow PID        calls `show` until the process ends, then sets `code` to its exit code

choose_tag() {
    if [[ $# -gt 0 && $1 != -* ]]; then
        tag=$1
        shift
    fi
    arguments=("$@")
    if [[ ! $tag =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
        echo "not a tag: $tag (letters, digits, dot, dash and underscore)" >&2
        exit 2
    fi
}

find_python() {
    python=${PYTHON:-python3}
    local candidate
    for candidate in "$PWD/.venv/bin/python" "$1/../.venv/bin/python"; do
        if [[ -z ${PYTHON:-} && -x $candidate ]]; then
            python=$candidate
            break
        fi
    done
}

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

is_terminal=false
if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then
    is_terminal=true
fi
spinner=('|' '/' '-' "\\")

follow() { # process
    while kill -0 "$1" 2>/dev/null; do
        show
        sleep "${POLL_SECONDS:-1}" &
        wait $! 2>/dev/null || true # a trap interrupts wait, and not a sleep in the foreground
    done
    code=0
    wait "$1" || code=$?
    trap - INT TERM HUP
    if $is_terminal; then
        printf '\r\033[K'
    fi
}
