# PostgreSQL, with its cluster in /var/lib/shop/db. A snapshot of a running container holds the pid file of a server that
# is gone. To PostgreSQL, TERM means "when the last client has left", so it is sent INT as well.
rm -f /var/lib/shop/db/postmaster.pid
setpriv --reuid postgres --regid postgres --init-groups \
    /usr/lib/postgresql/15/bin/postgres -D /var/lib/shop/db -c config_file=/etc/shop/postgresql.conf & server=$!
trap 'kill -s INT "$server"; wait "$server"' TERM
wait "$server"
