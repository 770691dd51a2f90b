#!/bin/sh
# What changed between two versions: any program that compares folders tells.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'diff -r $R/tags/raw/notes $R/branches/proofread/notes || true'
show 'diff -rq $R/branches/proofread/notes $R/branches/master/notes || true'
