#!/bin/sh
# The same bytes come over HTTP, by DVID's API: programs written for DVID find what they expect.
. "$(dirname "$0")/common.sh"
at_mount "$@"

ROOT=$(basename "$(readlink -f "$R/tags/raw")")
show 'curl -sS $URL/api/node/$ROOT/notes/key/Mi1-home'
show 'curl -sS $URL/api/node/$ROOT/notes/key/Mi1-home | cmp - $R/tags/raw/notes/Mi1-home && echo same bytes'
show 'curl -sS $URL/api/node/$ROOT/notes/keys; echo'
show 'curl -sS $URL/api/node/$ROOT/grayscale/info | head -c 400; echo'
