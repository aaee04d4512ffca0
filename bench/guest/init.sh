#!/bin/busybox sh
# The init of a guest that does nothing but write and read its disk, all the time, or write when it is told, and tell the console
# what that took. $what is of the kernel's command line.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo 1 >/proc/sys/kernel/printk
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    insmod /m/$module.ko
done
until [ -b /dev/vda ]; do usleep 20000; done
exec /bin/latency /dev/vda $what >/dev/ttyS0
