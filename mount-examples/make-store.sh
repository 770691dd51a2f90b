#!/bin/sh
# Makes the store that all examples look at: electron microscopy, its segmentation and some notes, in versions that part and meet again.
#   mount-examples/make-store.sh STORE
. "$(dirname "$0")/common.sh"
STORE=${1:?say where the store shall be made: make-store.sh STORE}
DATA=$(dirname "$0")/data
PATH=$(dirname "$0")/../.venv/bin:$PATH

show 'dvidfs init $STORE'
show 'dvidfs repo new $STORE --alias medulla'
show 'dvidfs import $STORE $DATA/grayscale --repo medulla --instance grayscale --voxel-size 10,10,10'
show 'dvidfs pyramid $STORE medulla:master grayscale --scales 2'
show 'dvidfs import $STORE $DATA/segmentation/supervoxels.nii.gz --repo medulla --instance segmentation --type labelmap --offset 0,0,0'
show 'dvidfs mappings $STORE medulla:master segmentation $DATA/segmentation/bodies.csv'
show 'dvidfs instance new $STORE medulla:master keyvalue notes'
show 'echo "traced by hand, 3 gaps left" | dvidfs key put $STORE medulla:master notes Mi1-home'
show 'echo "not looked at yet"           | dvidfs key put $STORE medulla:master notes Tm3-home'
show 'dvidfs commit $STORE medulla:master --note "as it came from the microscope"'
show 'dvidfs tag $STORE medulla:master raw'

say 'Two people go on from there: one on the trunk, one on a branch.'
show 'dvidfs newversion $STORE medulla:master'
show 'dvidfs branch $STORE medulla:raw proofread'
show 'echo "traced by hand, complete" | dvidfs key put $STORE medulla:proofread notes Mi1-home'
show 'echo "T4 input, checked"        | dvidfs key put $STORE medulla:master notes Tm3-home'
show 'echo "found on the way"         | dvidfs key put $STORE medulla:proofread notes L1-new'
show 'dvidfs commit $STORE medulla:proofread --note "Mi1 done"'
show 'dvidfs commit $STORE medulla:master --note "Tm3 checked"'

say 'Each changed other keys, so the merge has no conflict.'
show 'dvidfs merge $STORE medulla:master medulla:proofread --note "both"'
show 'dvidfs log $STORE --repo medulla'
