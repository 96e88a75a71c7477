#!/usr/bin/env bash
# Restores a desktop of OSWorld's Docker image, as env.arguments.reset_command:
#   ('docs/osworld/docker.sh', '{address}', '/path/to/Ubuntu.qcow2')
# NEVER RUN against a real image: it follows OSWorld's own Docker provider.
#
# The address http://127.0.0.1:5000 + n has Chrome's port at 9222 + n, VLC's at
# 8080 + n and the screen in a browser at 8006 + n, on loopback only: whoever
# reaches port 5000 can run programs in the machine.
set -euo pipefail
port=${1##*:}
image=$(realpath "$2")
n=$((port - 5000))
kvm=(--env KVM=N)
[ ! -e /dev/kvm ] || kvm=(--device /dev/kvm)
docker rm --force "osworld-$port" > /dev/null 2>&1 || true
docker run --detach --name "osworld-$port" --cap-add NET_ADMIN "${kvm[@]}" \
  --env DISK_SIZE=32G --env RAM_SIZE=4G --env CPU_CORES=4 \
  --volume "$image:/System.qcow2:ro" \
  --publish "127.0.0.1:$port:5000" \
  --publish "127.0.0.1:$((9222 + n)):9222" \
  --publish "127.0.0.1:$((8006 + n)):8006" \
  --publish "127.0.0.1:$((8080 + n)):8080" \
  happysixd/osworld-docker
