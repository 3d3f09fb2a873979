#!/bin/sh
# Starts a sentinel. It writes what it learns into its own configuration, so it gets a copy. Its name stays the same
# at each start, so that the others do not count it twice.
set -eu
{
    cat /run/secrets/sentinel.conf
    echo "sentinel announce-ip $(hostname)"
    echo "sentinel myid $(hostname | sha1sum | cut -c 1-40)"
} >/data/sentinel.conf
exec redis-server /data/sentinel.conf --sentinel
