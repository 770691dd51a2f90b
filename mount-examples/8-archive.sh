#!/bin/sh
# A committed version never changes, not even its times: archived twice it gives the same bytes.
. "$(dirname "$0")/common.sh"
at_mount "$@"

show 'tar -C $MOUNT/medulla/tags/raw/ -cf - notes grayscale/blocks | sha256sum'
show 'tar -C $MOUNT/medulla/tags/raw/ -cf - notes grayscale/blocks | sha256sum'
