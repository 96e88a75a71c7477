#!/usr/bin/env bash
# Restores a desktop of VMware Workstation, as env.arguments.reset_command:
#   ('docs/osworld/vmware.sh', '{address}', 'machines.txt')
# NEVER RUN against a real machine: it follows OSWorld's own VMware provider.
#
# Each line of machines.txt is an address and its .vmx file, which has a
# snapshot init_state; its IP address must stay the same (a DHCP reservation).
set -euo pipefail
vmx=$(awk -v address="$1" '$1 == address { $1 = ""; print substr($0, 2) }' "$2")
[ -n "$vmx" ] || { echo "no .vmx file of $1 in $2" >&2; exit 1; }
vmrun -T ws revertToSnapshot "$vmx" "${3:-init_state}"
vmrun -T ws start "$vmx" nogui
