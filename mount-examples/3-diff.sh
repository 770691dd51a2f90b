#!/bin/sh
# What changed between two versions: any program that compares folders tells.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'diff -r $MOUNT/medulla/tags/raw/notes $MOUNT/medulla/branches/proofread/notes || true'
show 'diff -rq $MOUNT/medulla/branches/proofread/notes $MOUNT/medulla/branches/master/notes || true'
