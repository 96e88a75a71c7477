#!/usr/bin/env bash
# OSWorld's own server without a virtual machine, as env.arguments.reset_command:
#   ('docs/osworld/server.sh', '{address}', 'OSWorld/desktop_env/server', 'VENV')
# VENV: /usr/bin/python3 -m venv --system-site-packages VENV; VENV/bin/pip
# install flask lxml numpy pillow pyautogui python-xlib requests.
#
# As root, on a machine for nothing else, after the README's apt-get and that of
# python3-tk and gnome-screenshot: it kills what the user `user` runs, empties
# /home/user and starts screen, session and server again, on loopback.
set -euo pipefail
port=${1##*:}
server=$(realpath "$2") venv=$(realpath "$3")
home=/home/user mark=/home/.user_of_step_jax
[ -e $mark ] || { useradd --shell /bin/bash user; touch $mark; }
pkill -KILL -u user || true
while pgrep -u user -r D,R,S > /dev/null; do sleep .1; done
rm -rf $home /tmp/.X0-lock /tmp/.X11-unix/X0
install -d -o user -g user $home $home/bin \
  $home/{Desktop,Documents,Downloads,Music,Pictures,Videos}
xauth -q -f $home/.Xauthority add :0 . "$(mcookie)" 2> /dev/null
cp -r "$server" $home/server
cat > $home/bin/google-chrome <<'end'
#!/bin/sh
exec chromium --no-sandbox --user-data-dir="$HOME/.config/google-chrome" "$@"
end
cat > $home/session <<end
Xvfb :0 -screen 0 1920x1080x24 -nolisten tcp &
until xdpyinfo > /dev/null 2>&1; do sleep .1; done
gsettings set org.gnome.desktop.interface toolkit-accessibility true
openbox &
cd $home/server
exec $venv/bin/python -m flask --app main run --port $port
end
chmod 755 $home/bin/google-chrome
chown -R user:user $home
cd $home
setsid runuser -u user -- env -i HOME=$home USER=user LANG=C.UTF-8 DISPLAY=:0 \
  XDG_SESSION_TYPE=x11 PATH="$home/bin:$venv/bin:/usr/bin:/bin" \
  GTK_MODULES=gail:atk-bridge GVFS_DISABLE_FUSE=1 QT_ACCESSIBILITY=1 \
  SAL_USE_VCLPLUGIN=gtk3 dbus-run-session -- bash $home/session \
  > /tmp/osworld_server.log 2>&1 < /dev/null &
"$venv/bin/python" - "$1" <<'end'
import sys, time, requests
for _ in range(300):
  try:
    requests.get(f'{sys.argv[1]}/platform', timeout=5).raise_for_status()
    sys.exit()
  except requests.RequestException:
    time.sleep(.2)
sys.exit(f'{sys.argv[1]} does not answer, see /tmp/osworld_server.log')
end
