#!/bin/sh
# Repos, versions and instances are folders; branches and tags are links to versions.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'ls -l $MOUNT'
show 'ls -l $R'
show 'ls -l $R/branches $R/tags'
show 'ls -l $R/branches/master/'
show 'ls -l $R/branches/master/notes'
show 'ls -l $R/branches/master/grayscale'
show 'cat $R/.dvid/dag.txt'
