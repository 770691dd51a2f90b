#!/bin/sh
# In an open version keys are written as files are; a committed version refuses.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'NOTES=$MOUNT/medulla/branches/master/notes'
show 'echo "second look needed" > $NOTES/Dm8-left'
show 'cp $NOTES/Dm8-left $NOTES/Dm8-right'
show 'echo "by whom?" >> $NOTES/Dm8-right'
show 'mv $NOTES/Dm8-left $NOTES/Dm8-unsure'
show 'cat $NOTES/Dm8-right'
show 'rm $NOTES/Dm8-right $NOTES/Dm8-unsure'
show 'ls $NOTES'
show 'echo "too late" > $MOUNT/medulla/tags/raw/notes/Mi1-home || echo "refused, as it should be"'
