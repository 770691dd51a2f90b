#!/bin/sh
# A key is a file. Each version shows the value that it had then.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'cat $MOUNT/medulla/tags/raw/notes/Mi1-home'
show 'cat $MOUNT/medulla/branches/proofread/notes/Mi1-home'
show 'grep -r traced $MOUNT/medulla/tags/raw/notes $MOUNT/medulla/branches/proofread/notes | sed "s|^$MOUNT/||"'
