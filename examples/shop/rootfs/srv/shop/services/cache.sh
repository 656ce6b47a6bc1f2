# Redis, with its append-only file in /var/lib/shop/cache.
exec setpriv --reuid redis --regid redis --init-groups redis-server /etc/shop/redis.conf
