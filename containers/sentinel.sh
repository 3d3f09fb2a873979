#!/bin/sh
# Starts a sentinel. A sentinel writes its state into its configuration file, so it gets a copy of the file. The id of
# a sentinel is the same at each start, so that the other sentinels do not count it twice.
set -eu
{
    cat /run/secrets/sentinel.conf
    echo "sentinel announce-ip $(hostname)"
    echo "sentinel myid $(hostname | sha1sum | cut -c 1-40)"
} >/data/sentinel.conf
exec redis-server /data/sentinel.conf --sentinel
