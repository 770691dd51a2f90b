#!/bin/sh
# Repos, versions and instances are folders; branches and tags are links to versions.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'ls -l $MOUNT'
show 'ls -l $MOUNT/medulla'
show 'ls -l $MOUNT/medulla/branches $MOUNT/medulla/tags'
show 'ls -l $MOUNT/medulla/branches/master/'
show 'ls -l $MOUNT/medulla/branches/master/notes'
show 'ls -l $MOUNT/medulla/branches/master/grayscale'
show 'cat $MOUNT/medulla/.dvid/dag.txt'
