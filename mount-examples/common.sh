# Read by the examples. `show` prints a command before it runs it, `say` a remark; `at_mount` learns where
# the mount is.
# shellcheck shell=sh disable=SC2034
set -eu

show() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

say() {
    printf '\n# %s\n' "$1"
}

# The words of the example, MOUNT and URL, each of which may be a variable instead.
at_mount() {
    MOUNT=${1:-${MOUNT:?say where the store is mounted: $0 MOUNT, or the variable MOUNT}}
    URL=${2:-${URL:-http://127.0.0.1:8000}}
}
