#!/bin/sh
# A key is a file. Each version shows the value that it had then.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'cat $R/tags/raw/notes/Mi1-home'
show 'cat $R/branches/proofread/notes/Mi1-home'
show 'grep -r traced $R/tags/raw/notes $R/branches/proofread/notes | sed "s|$R/||"'
