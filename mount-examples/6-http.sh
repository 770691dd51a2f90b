#!/bin/sh
# The same bytes come over HTTP, by DVID's API: programs written for DVID find what they expect.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'curl -sS $URL/api/node/raw/notes/key/Mi1-home'
show 'curl -sS $URL/api/node/raw/notes/key/Mi1-home | cmp - $MOUNT/medulla/tags/raw/notes/Mi1-home && echo same bytes'
show 'curl -sS $URL/api/node/raw/notes/keys; echo'
show 'curl -sS $URL/api/node/raw/grayscale/info | head -c 400; echo'
