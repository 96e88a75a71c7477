#!/usr/bin/env bash
# Restores a machine of QEMU, as env.arguments.reset_command:
#   ('docs/osworld/qemu.sh', '{address}', '/path/to/Ubuntu.qcow2')
# after apt-get install -y qemu-system-x86 qemu-utils curl procps. Without an
# image it ends the machine. NEVER RUN with real KVM, nor with OSWorld's image,
# but emulated (ACCEL=tcg), with that of image.sh: docs/osworld.md.
#
# The first call boots the image, which is never written to, until OSWorld's
# server takes pictures and SETTLE seconds are over, and keeps memory and disk
# in a folder beside it: from there every call starts its machine, at any
# address. What a machine writes goes into memory and unlinked files. The folder
# is for these options, this image and this QEMU, and can be deleted at rest.
#
# The address http://127.0.0.1:5000 + n has Chrome's port at 9222 + n and VLC's
# at 8080 + n, on loopback only: whoever reaches port 5000 can run programs in
# the machine. Programs in it reach this machine's loopback, and the web, but
# for NET=restrict=on. As in ('env', 'RAM=2G', 'CPUS=1', 'docs/osworld/qemu.sh',
# ...); what follows the image is for QEMU, such as -bios.
set -euo pipefail
: "${RAM:=4G}" "${CPUS:=4}" "${SETTLE:=30}"
: "${ACCEL:=kvm:tcg}" "${NET:=restrict=off}"
port=${1##*:}
n=$((port - 5000))
this="^qemu-system-x86_64 -name osworld-$port "
for pid in $(pgrep -u "$UID" -f "$this"); do
  kill -KILL "$pid"  # and wait until all of its threads have let go its ports
  while grep -Eqs '^(State:.[^ZX]|Threads:.([2-9]|..))' "/proc/$pid/status"; do
    sleep .1
  done
done
[ $# -gt 1 ] || exit 0
image=$(realpath "$2")
shift 2
cpu=max  # and AMD's has none of Intel's, whatever a nested host says
! grep -q AuthenticAMD /proc/cpuinfo || cpu=max,arch-capabilities=off
state=$image.$({ stat -c '%n %s %Y' "$image"; qemu-system-x86_64 --version
  echo "$RAM $CPUS $ACCEL $*"; } | sha256sum | head -c 16)

forward() { echo "hostfwd=tcp:127.0.0.1:$1-:$2"; }
net=user,id=net,$NET,$(forward "$port" 5000)
net+=,$(forward $((9222 + n)) 9222),$(forward $((8080 + n)) 8080)

run() {  # a folder, whether to share its memory, what else there is to it
  local memory=mem-path=$1/ram share=$2
  shift 2
  exec setsid qemu-system-x86_64 -name "osworld-$port" -cpu "$cpu" \
    -machine q35,accel=$ACCEL,memory-backend=ram -m "$RAM" -smp "$CPUS" \
    -object "memory-backend-file,id=ram,size=$RAM,share=$share,$memory" \
    -netdev "$net" -device virtio-net-pci,netdev=net -device virtio-rng-pci \
    -device virtio-vga,xres=1920,yres=1080 -display none -monitor stdio "$@"
}

wait_for_server() {  # so many seconds, until it answers this
  local end=$((SECONDS + $1))
  until curl -fs -m 60 -o /dev/null "http://127.0.0.1:$port/$2"; do
    pgrep -u "$UID" -f "$this" > /dev/null && ((SECONDS < end)) || return 1
    sleep .2
  done
}

error() { grep -a '^qemu-system' "$1" || echo 'no error of QEMU, see' "$1"; }

exec 9> "$image.lock"
flock 9
if [ ! -e "$state" ]; then
  rm -rf "$image".*.*  # of calls that were killed
  new=$(mktemp -d "$state.XXXXXX")
  qemu-img create -q -f qcow2 -F qcow2 -b "$image" "$new/disk"
  (run "$new" on -drive "file=$new/disk,if=virtio" "$@") \
    < <({ sleep 5; if wait_for_server 500 screenshot; then
      sleep "$SETTLE"
      echo 'migrate_set_capability x-ignore-shared on'
      echo "migrate \"exec:cat > '$new/devices'\""
      echo info migrate
    fi; echo quit; } 2> /dev/null) > "$new/log" 2>&1 9>&-
  grep -q 'Migration status: completed' "$new/log" || {
    echo "$image has not booted: $(error "$new/log")" >&2
    exit 1
  }
  mv "$new" "$state"
fi
exec 9>&-
log=$state/$port.log
(run "$state" off -drive "file=$state/disk,if=virtio,snapshot=on" \
  -incoming defer "$@" <<< "migrate_set_capability x-ignore-shared on
migrate_incoming \"exec:cat '$state/devices'\"") > "$log" 2>&1 &
sleep .2
wait_for_server 60 platform || {
  echo "$port does not answer: $(error "$log")" >&2
  exit 1
}
