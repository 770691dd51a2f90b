#!/bin/sh
# In an open version keys are written as files are; a committed version refuses.
. "$(dirname "$0")/common.sh"
at_mount "$@"

HEAD=$R/branches/master
show 'echo "second look needed" > $HEAD/notes/Dm8-left'
show 'cp $HEAD/notes/Dm8-left $HEAD/notes/Dm8-right'
show 'echo "by whom?" >> $HEAD/notes/Dm8-right'
show 'mv $HEAD/notes/Dm8-left $HEAD/notes/Dm8-unsure'
show 'cat $HEAD/notes/Dm8-right'
show 'rm $HEAD/notes/Dm8-right $HEAD/notes/Dm8-unsure'
show 'ls $HEAD/notes'
show 'echo "too late" > $R/tags/raw/notes/Mi1-home || echo "refused, as it should be"'
