#!/bin/bash
# init.sh ROOT STATE - process 1 of a stand-in phone, in namespaces of its own. It mounts what Android's init would,
# keeps adbd running, and reaps what detached runs leave. When it is killed, the kernel ends all that is in the phone.
# STAND_IN_DOORS: files of its cgroups that let a process in; STAND_IN_CPU: what qemu pretends to be; STAND_IN_DISK:
# bytes of a small disk under /data/local/tmp.
set -e
root=$1 state=$2
for door in $STAND_IN_DOORS; do echo 0 >"$door"; done
read -r pid _ </proc/self/stat # /proc is still the host's, so this is the number out there
hostname localhost
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root"/dev/{pts,shm,socket}
chmod 1777 "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for device in null:3 zero:5 full:7 random:8 urandom:9; do
  mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 "$root/dev/tty" c 5 0
mount --bind "$root/sys_rw" "$root/sys" # wholly a tree of ours
for file in "$root"/replay/proc/*; do
  [ ! -f "$file" ] || mount --bind "$file" "$root/proc/${file##*/}"
done
[ -z "$STAND_IN_DISK" ] ||
  mount -t tmpfs -o "size=$STAND_IN_DISK,mode=0771,uid=2000,gid=2000" tmpfs "$root/data/local/tmp"
cd "$root"
ulimit -c 0
echo "$pid" >"$state/init.pid"
apex=/apex/com.android.adbd groups=1004,1007,1011,1015,1028,3001,3002,3003,3006,3009,3011
while :; do
  env -i PATH=/product/bin:/system/bin:/vendor/bin ANDROID_ROOT=/system ANDROID_DATA=/data HOME=/ \
    SHELL=/system/bin/sh TMPDIR=/data/local/tmp QEMU_CPU="${STAND_IN_CPU:-cortex-a76}" \
    "$(command -v chroot)" --userspec=2000:2000 --groups=$groups "$root" \
    $apex/lib64/ld-linux-x86-64.so.2 --library-path $apex/lib64 --argv0 adbd $apex/bin/adbd || true
  sleep 1
done
