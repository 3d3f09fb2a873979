#!/bin/sh
# Copies the primary, and starts a server on the copy. Every start makes a new copy: an old copy could not catch up,
# because the primary keeps no WAL for it. The old copy is replaced when the new copy is complete.
set -eu
rm -rf "$PGDATA.new"
pg_basebackup \
    --dbname="host=postgres user=echo_markets_replication passfile=/run/secrets/replication.pgpass" \
    --pgdata="$PGDATA.new" --write-recovery-conf --checkpoint=fast
rm -rf "$PGDATA"
mv "$PGDATA.new" "$PGDATA"
exec postgres -c shared_preload_libraries=pg_stat_statements -c hot_standby_feedback=on
