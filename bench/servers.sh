# shellcheck shell=bash
# The servers of bench/run, which sources this file. The functions use its
# variables.

stop() { # PID: terminates it and waits
	[ -n "$1" ] || return 0
	kill "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

finish() {
	trap '' INT TERM # a second signal must not interrupt this
	stop "$measure_pid"
	stop "$caddy_pid"
	stop "$nginx_pid"
	stop "$upstream_pid"
	if [ -n "$keep" ]; then echo "left in $dir" >&2; else rm -rf "$dir"; fi
}

await() { # PORT PID NAME: waits until the process listens on the port
	for _ in $(seq 600); do
		! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || return 0
		kill -0 "$2" 2>/dev/null || break
		sleep 0.1
	done
	tail -n 20 "$dir/$3.log" >&2
	fail "$3 does not start"
}

idle() { # PORT...: fails if a port is taken, so that no other server is measured
	for p in "$@"; do
		! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || fail "port $p is taken; choose another --port"
	done
}

start_upstream() { # MIB/S: the limit of each connection
	"$dir/upstream" -listen "127.0.0.1:$upstream_port" -size "$size" -latency "$latency" -rate "$1" >"$dir/upstream.log" 2>&1 &
	upstream_pid=$!
	await "$upstream_port" "$upstream_pid" upstream
}

stop_upstream() {
	stop "$upstream_pid"
	upstream_pid=
}

write_caddyfile() { # CACHE [STORAGE-LINES]: respond's body is the manifest, once it is known
	local chunk='' front='' tls='' hash
	[ -z "$caddy_chunk" ] || chunk=$(printf 'servers {\ntimeouts {\nwrite_max_chunk %s\n}\n}' "$caddy_chunk")
	! wants_accounts || front=$(printf 'servers 127.0.0.1:%s {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}' "$port") # so that logins come from many addresses
	! wants tls || tls=$(printf 'https://127.0.0.1:%s {\nbind 127.0.0.1\ntls %s/tls.crt %s/tls.key\nimport proxy\n}' "$tls_port" "$dir" "$dir")
	hash=$("$caddy" hash-password --plaintext bench --bcrypt-cost 4)
	cat >"$dir/Caddyfile" <<-END
		{
			admin $admin
			auto_https off
			storage file_system $dir/data
			$chunk
			$front
		}
		(proxy) {
			dependency_proxy {
				storage filesystem $1 {
					${2-}
				}
				user bench $hash
				$(! wants_accounts || cat "$dir/users")
				group acme {
					members bench $(! wants_accounts || echo user0)
				}
				upstream registry.example {
					endpoint http://127.0.0.1:$upstream_port
					allow_private
					fresh_for $fresh
					${connections:+connections $connections}
				}
			}
		}
		http://127.0.0.1:$port {
			bind 127.0.0.1
			import proxy
		}
		$tls
		http://127.0.0.1:$respond_port {
			bind 127.0.0.1
			respond \`$(cat "$dir/manifest")\`
		}
		http://127.0.0.1:$plain_port {
			bind 127.0.0.1
			respond \`$(tr '{}' '()' <"$dir/manifest")\`
		}
	END
	"$caddy" fmt --overwrite "$dir/Caddyfile" >/dev/null
}

start_caddy() { # CACHE
	write_caddyfile "$1"
	# A further directory follows the users. http_basic has no Caddyfile form.
	"$caddy" adapt --config "$dir/Caddyfile" --adapter caddyfile |
		sed "s|\(\"users\":\[[^]]*]}\)]|\1${behind:+,$behind}]|" >"$dir/caddy.json"
	XDG_DATA_HOME=$dir/data XDG_CONFIG_HOME=$dir/config \
		"$caddy" run --config "$dir/caddy.json" >>"$dir/caddy.log" 2>&1 &
	caddy_pid=$!
	await "$port" "$caddy_pid" caddy
}

stop_caddy() {
	stop "$caddy_pid"
	caddy_pid=
}

start_nginx() { # HTTP-LINES SERVER-LINES
	local user='' chunk=''
	[ "$(id -u)" != 0 ] || user='user root;'
	[ -z "$nginx_chunk" ] || chunk="sendfile_max_chunk $nginx_chunk;"
	mkdir -p "$dir/nginx"
	cat >"$dir/nginx.conf" <<-END
		$user
		worker_processes auto;
		pid $dir/nginx/pid;
		error_log stderr;
		events {}
		http {
			access_log off;
			sendfile on;
			$chunk
			client_body_temp_path $dir/nginx/body;
			proxy_temp_path $dir/nginx/proxy;
			fastcgi_temp_path $dir/nginx/fastcgi;
			uwsgi_temp_path $dir/nginx/uwsgi;
			scgi_temp_path $dir/nginx/scgi;
			$1
			server {
				listen 127.0.0.1:$nginx_port;
				$2
			}
		}
	END
	"$nginx" -p "$dir/nginx" -e stderr -c "$dir/nginx.conf" -g 'daemon off;' >>"$dir/nginx.log" 2>&1 &
	nginx_pid=$!
	await "$nginx_port" "$nginx_pid" nginx
}

stop_nginx() {
	stop "$nginx_pid"
	nginx_pid=
}

measure() {
	"$dir/measure" "$1" -proxy "http://127.0.0.1:$port" -proxy-pid "${caddy_pid:-0}" \
		-upstream "http://127.0.0.1:$upstream_port" \
		-nginx "http://127.0.0.1:$nginx_port" -nginx-pid "${nginx_pid:-0}" \
		-respond "http://127.0.0.1:$respond_port" -respond-plain "http://127.0.0.1:$plain_port" \
		-proxy-tls "https://127.0.0.1:$tls_port" -nginx-tls "https://127.0.0.1:$nginx_tls_port" \
		-wrk "$wrk" -rounds "$rounds" -seconds "$seconds" "${copy[@]}" "${@:2}" &
	measure_pid=$!
	wait "$measure_pid" # unlike a foreground command, this is interrupted by a signal
	measure_pid=
}
