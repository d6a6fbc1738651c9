#!/bin/sh
# Hand a hook's JSON to `autoresearch hook NAME`. Only exit code 2 stops an agent, so where research is going on
# a missing or broken autoresearch must answer 2; everywhere else it must not get in anybody's way.
name=$1

find_it() {
    command -v autoresearch && return
    for folder in "${CLAUDE_PROJECT_DIR:-.}" "${CLAUDE_PLUGIN_ROOT:-.}/.."; do
        if [ -x "$folder/.venv/bin/autoresearch" ]; then
            echo "$folder/.venv/bin/autoresearch"
            return
        fi
    done
    return 1
}

on_a_research_branch() {
    case $(git branch --show-current 2>/dev/null) in
        autoresearch/* | autoresearch-data/*) return 0 ;;
        *) return 1 ;;
    esac
}

if program=$(find_it); then
    "$program" hook "$name"
    code=$?
    [ "$code" -eq 0 ] && exit 0
    [ "$code" -eq 2 ] && exit 2
    why="autoresearch hook $name failed (exit code $code)"
else
    why="autoresearch is not on PATH, so the edit scope cannot be checked; activate its environment and start again"
fi
case $name in
    scope | shell)
        if on_a_research_branch; then
            echo "refused: $why" >&2
            exit 2
        fi
        ;;
esac
exit 0
