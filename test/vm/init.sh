#!/bin/busybox sh
# The first process of the test guest: mounts what the tests need, runs one Node script, reports its exit code on
# the second serial port and switches the machine off. Everything on the first port is console output.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root
mkdir -p /proc /sys /dev /tmp /run/netns /root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd

# Neither port may change a byte, echo, or wait for a carrier.
stty -F /dev/ttyS0 raw -echo clocal
stty -F /dev/ttyS1 raw -echo clocal

for module in $(cat /modules/order); do
	insmod "/modules/$module" || echo "init: cannot load $module"
done
ip link set lo up

cd /repo
export MAPMESH_VM=1 MAPMESH_VM_REPORT=/dev/ttyS1
# The host wrote the command, quoted, into the image.
. /command
echo "exit $?" >/dev/ttyS1
sync
poweroff -f
