#!/bin/sh
# Proofreading: two bodies are merged over HTTP, and the files follow; diff tells which bodies changed.
. "$(dirname "$0")/common.sh"
at_mount "$@"
BRANCH=proof-$$

show 'curl -sS $URL/api/node/raw/branch -d "{\"branch\": \"$BRANCH\"}"; echo'
show 'BEFORE=$MOUNT/medulla/tags/raw/segmentation NOW=$MOUNT/medulla/branches/$BRANCH/segmentation'
show 'ls $NOW/bodies | wc -l'
show 'cat $NOW/bodies/84/info.json'
show 'curl -sS $URL/api/node/raw:$BRANCH/segmentation/merge -d "[84, 164]"; echo'
show 'ls $NOW/bodies | wc -l'
show 'grep -E "voxels|time" $NOW/bodies/84/info.json'
show 'diff -rq --exclude="mesh.*" $BEFORE/bodies $NOW/bodies | sed "s|$MOUNT/medulla/||g"'
show 'find $NOW/bodies -mindepth 1 -maxdepth 1 -newer $BEFORE/bodies/84 -printf "%f changed\n"'
