#!/usr/bin/env bash
# Makes a Debian machine with OSWorld's own server, for qemu.sh beside this:
#   docs/osworld/image.sh OSWorld/desktop_env/server Debian.qcow2
# As root, on Debian 12, with a python3 that has pip, after
#   apt-get install -y mmdebstrap qemu-utils grub-pc-bin grub-common fdisk
# It has the user `user` with the password `password`, Xorg with openbox, and
# the programs below. It is not OSWorld's own image: no Ubuntu, no GNOME.
set -euo pipefail
server=$(realpath "$1") image=$(realpath "$2")
work=$(mktemp -d "$image.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
packages=(
  linux-image-amd64 systemd-sysv udev dbus-user-session libpam-systemd sudo
  bc procps psmisc curl wget unzip jq socat
  xserver-xorg-core xserver-xorg-input-libinput xinit xauth x11-utils
  x11-xserver-utils xdg-utils openbox wmctrl xdotool xclip gnome-screenshot
  at-spi2-core libatk-adaptor libgail-common gir1.2-atspi-2.0 python3-pyatspi
  gsettings-desktop-schemas dconf-gsettings-backend libglib2.0-bin
  python3-flask python3-lxml python3-numpy python3-pil python3-requests
  python3-tk python3-xlib python-is-python3 fonts-dejavu-core fonts-liberation
  mousepad gedit pcmanfm gnome-terminal chromium gimp vlc thunderbird
  libreoffice-calc libreoffice-writer libreoffice-impress libreoffice-gtk3)
mmdebstrap --mode=root --variant=minbase --format=directory \
  --include="${packages[*]}" --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$root"
python3 -m pip install --quiet --no-compile --no-deps \
  --target "$root/usr/lib/python3/dist-packages" pyautogui pymsgbox pytweening \
  pyscreeze pygetwindow pyrect mouseinfo pyperclip

chroot "$root" useradd --create-home --shell /bin/bash --groups sudo user
chroot "$root" chpasswd <<< user:password
write() { install -D /dev/stdin "$root/$1"; }  # the file of that name
write etc/hostname <<< user-virtual-machine
write etc/hosts <<< '127.0.0.1 localhost user-virtual-machine'
write etc/resolv.conf <<< 'nameserver 10.0.2.3'  # QEMU's
write etc/systemd/network/all.network <<< $'[Match]\nName=e*\n[Network]\nDHCP=yes'
# A machine that was restored takes the time from its host.
write usr/local/sbin/host_clock <<'end'
#!/bin/bash
while sleep 2; do
  now=$(< /sys/class/rtc/rtc0/since_epoch)
  late=$((now - $(date +%s)))
  [ ${late#-} -lt 3 ] || date --set="@$now"
done
end
write etc/systemd/system/host_clock.service <<'end'
[Service]
ExecStart=/usr/local/sbin/host_clock
[Install]
WantedBy=multi-user.target
end
write usr/share/glib-2.0/schemas/90_a11y.gschema.override \
  <<< $'[org.gnome.desktop.interface]\ntoolkit-accessibility=true'
chroot "$root" glib-compile-schemas /usr/share/glib-2.0/schemas
# The process is called chrome, as `pkill chrome` expects it.
ln -s chromium "$root/usr/lib/chromium/chrome"
write usr/local/bin/google-chrome <<'end'
#!/bin/sh
exec /usr/lib/chromium/chrome --user-data-dir="$HOME/.config/google-chrome" \
  --password-store=basic --no-first-run "$@"
end
write etc/X11/xorg.conf.d/screen.conf <<'end'
Section "Device"
  Identifier "card"
  Driver "modesetting"
  Option "AccelMethod" "none"
EndSection
Section "ServerFlags"
  Option "BlankTime" "0"
EndSection
end
sed -i 's|</keyboard>|<keybind key="C-A-t"><action name="Execute"><command>\
gnome-terminal</command></action></keybind></keyboard>|' \
  "$root/etc/xdg/openbox/rc.xml"
write etc/systemd/system/getty@tty1.service.d/autologin.conf <<'end'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin user --noclear %I linux
end
variables='LANG=C.UTF-8 GTK_MODULES=gail:atk-bridge QT_ACCESSIBILITY=1
  SAL_USE_VCLPLUGIN=gtk3 XDG_SESSION_TYPE=x11'
write etc/profile.d/screen.sh <<end
export ${variables//$'\n'/ }
[ "\$(tty)" != /dev/tty1 ] || exec startx /usr/bin/openbox-session
end
cp -r "$server" "$root/home/user/server"
cp "$server/osworld_server.service" "$root/etc/systemd/system"
write etc/systemd/system/osworld_server.service.d/screen.conf <<end
[Service]
Environment=${variables//$'\n'/ }
ExecStartPre=/bin/sh -c 'until xdpyinfo > /dev/null 2>&1; do sleep .5; done'
end
mkdir -p "$root"/home/user/{Desktop,Documents,Downloads,Music,Pictures,Videos}
chroot "$root" chown -R user:user /home/user
chroot "$root" systemctl enable systemd-networkd host_clock \
  osworld_server

rm -rf "$root"/var/{cache/apt,lib/apt/lists}/*
truncate -s 12G "$work/disk"
sfdisk --quiet "$work/disk" <<< '2048,,L,*'
mke2fs -q -t ext4 -O ^metadata_csum_seed,^orphan_file -d "$root" \
  -E offset=1048576,lazy_itable_init=0 "$work/disk" $((12 * 1024 * 1024 - 1024))
cat > "$work/grub.cfg" <<'end'
set root=(hd0,msdos1)
linux /vmlinuz root=/dev/vda1 rw quiet
initrd /initrd.img
boot
end
grub-mkimage --format=i386-pc --output="$work/core.img" --prefix=/boot/grub \
  --config="$work/grub.cfg" biosdisk part_msdos ext2 linux
boot=/usr/lib/grub/i386-pc/boot.img
dd if=$boot of="$work/disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$work/disk" bs=512 seek=1 conv=notrunc status=none
qemu-img convert -O qcow2 "$work/disk" "$work/image"
mv "$work/image" "$image"
