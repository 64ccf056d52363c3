#!/bin/sh
# Makes the cores of tiny.c anew, in this folder; README.md says what they are. As root, with gcc and gdb, and where
# /proc/sys/kernel/core_pattern is `core`. The argument is the program memfetch.
set -eu
memfetch=$(realpath "$1")
cd "$(dirname "$0")"
[ "$(cat /proc/sys/kernel/core_pattern)" = core ]
[ "${2-}" = inside ] || exec unshare --uts "./$(basename "$0")" "$memfetch" inside

# The same on each machine, and in each process: host name, path, addresses, environment. A small stack makes small cores.
hostname host
mkdir /opt/tiny
pid=
trap 'kill $pid 2>/dev/null || true; rm -r /opt/tiny' EXIT
gcc -Os -nostdlib -static -no-pie -fno-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
    -Wl,--build-id=sha1 -Wl,-z,norelro -o /opt/tiny/tiny tiny.c
rm -rf gdb kernel memfetch full directory classic

(ulimit -s 32; exec setarch -R env -i WORD=tiny /opt/tiny/tiny) &
pid=$!
sleep 1
gdb -q -n -batch -p $pid -ex 'generate-core-file gdb' >/dev/null
"$memfetch" snap -q --mode freeze $pid -o memfetch
"$memfetch" snap -q --mode freeze --contents full $pid -o full
"$memfetch" snap -q --mode freeze --format dir $pid -o directory
"$memfetch" snap -q --mode freeze --classic $pid -o classic || [ $? = 3 ]
kill $pid
wait $pid || true

mkdir /opt/tiny/crash
(cd /opt/tiny/crash && ulimit -s 32 && ulimit -c unlimited && exec setarch -R env -i WORD=tiny /opt/tiny/tiny fault) || true
mv /opt/tiny/crash/core* kernel
chmod -R u=rwX,go=rX gdb kernel memfetch full directory classic
