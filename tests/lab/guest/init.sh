#!/bin/busybox sh
# The guest's init: mounts the virtio disk, runs the guest agent and a shell on the second serial port:
# the first is the kernel's, which may write between a command's answers, as it does on a busy machine.
# Kernel words: w=N writes files of N KiB without end; each carries its own sum.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
echo 3 >/proc/sys/kernel/printk
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console button evdev; do
    insmod /m/$module.ko
done
for word in $(cat /proc/cmdline); do case $word in w=*) eval "$word" ;; esac done

tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 500 ]; do usleep 20000; tries=$((tries + 1)); done
mount -t ext4 /dev/vda /mnt

cat >/bin/writer <<'W'
#!/bin/sh
# dN is random, sN its sum, renamed into place only when dN is on disk: every sN verifies at every instant.
n=$(cat /mnt/next 2>/dev/null || echo 0)
while :; do
    slot=$((n % 64))
    rm -f /mnt/s$slot
    sync
    dd if=/dev/urandom of=/mnt/d$slot bs=1k count=$1 conv=fsync 2>/dev/null
    (cd /mnt && sha256sum d$slot) >/mnt/t$slot
    sync
    mv /mnt/t$slot /mnt/s$slot
    n=$((n + 1))
    echo $n >/mnt/next.t
    mv /mnt/next.t /mnt/next
    # else it keeps a core of the host busy, emulated, as long as the guest runs
    usleep 200000
done
W
chmod 755 /bin/writer
[ -z "$w" ] || writer "$w" &

tries=0
while [ -z "$port" ] && [ $tries -lt 500 ]; do
    for p in /sys/class/virtio-ports/*; do
        [ "$(cat $p/name 2>/dev/null)" = org.qemu.guest_agent.0 ] && port=/dev/${p##*/}
    done
    usleep 20000
    tries=$((tries + 1))
done
mkdir -p /dev/virtio-ports
ln -s $port /dev/virtio-ports/org.qemu.guest_agent.0
cat >/bin/hook <<'H'
#!/bin/sh
# The agent runs it before a freeze, which so takes as long as the file is there.
while [ "$1" = freeze ] && [ -e /tmp/hold ]; do usleep 20000; done
H
chmod 755 /bin/hook
qemu-ga -d -p /dev/virtio-ports/org.qemu.guest_agent.0 -l /tmp/qga.log -t /run -F/bin/hook

stty -echo </dev/ttyS1
# A guest may have no such port.
while usleep 20000; do setsid sh -c 'exec sh </dev/ttyS1 >/dev/ttyS1 2>&1'; done
