# nginx in front of the api. The upstream comes from /etc/shop/web.toml.
upstream=$(sed -n 's/^api = "\(.*\)"$/\1/p' /etc/shop/web.toml)
sed "s/@UPSTREAM@/$upstream/" /etc/shop/nginx.conf > /run/nginx.conf
exec nginx -c /run/nginx.conf
