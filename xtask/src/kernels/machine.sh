#!/bin/busybox sh
# The first process on the disk: mounts what programs expect, runs the suite, and switches the machine off. What it
# and the programs print goes to the second serial line; the kernel has the first.

/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /etc
/bin/busybox --install -s /bin
# Tests copy it, and a copy of busybox is told what to be by its name.
[ -x /usr/bin/true ] && ln -sf /usr/bin/true /bin/true
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
chmod 1777 /tmp /dev/shm
ifconfig lo up
echo "127.0.0.1 localhost" >/etc/hosts
echo "root:x:0:0:root:/root:/bin/sh" >/etc/passwd
ulimit -n 4096
export MEMFETCH_SKIP_LOG=/tmp/skipped MEMFETCH_OWN_MACHINE=1

# name, seconds, user, command
program() {
    name=$1 limit=$2 user=$3
    shift 3
    : >$MEMFETCH_SKIP_LOG
    chmod 666 $MEMFETCH_SKIP_LOG
    echo "@@ begin $name"
    if [ "$user" = root ]; then
        timeout -s KILL "$limit" "$@"
    else
        # By its path: the one of busybox cannot.
        timeout -s KILL "$limit" "$SETPRIV" --reuid "$user" --regid "$user" --clear-groups "$@"
    fi
    status=$?
    echo
    cat $MEMFETCH_SKIP_LOG
    echo "@@ end $status"
}

echo "@@ kernel $(uname -r)"
for suite in $(cat /proc/cmdline); do
    case $suite in suite=*) . "/${suite#suite=}" ;; esac
done
echo "@@ done"
sync
poweroff -f
