#!/bin/bash
# tests/lab/guest/mkguest.sh OUT: makes OUT/vmlinuz and OUT/initrd, a Linux guest of Debian's own packages: its cloud
# kernel, busybox and qemu-guest-agent. They are fetched into OUT/deb, not installed; what is there is used again.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
out=$(readlink -m "$1")
mkdir -p "$out/deb"
exec 9<"$out" && flock 9 # test binaries may run side by side
if [[ $out/initrd -nt $here/init.sh && $out/initrd -nt $0 ]]; then exit 0; fi

cd "$out/deb"
if ! compgen -G 'linux-image-*.deb' >/dev/null; then
    newest() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }'; }
    kernel=$(newest)
    if [[ -z $kernel ]]; then
        apt-get --quiet=2 update
        kernel=$(newest)
    fi
    apt-get --quiet=2 -o APT::Sandbox::User=root download "$kernel" qemu-guest-agent busybox-static
fi

unpacked=$out/unpacked root=$out/root
rm -rf "$unpacked" "$root"
mkdir -p "$unpacked" "$root"/{bin,sbin,dev,proc,sys,tmp,run,mnt,m,etc,lib64,lib/x86_64-linux-gnu,var/run}
for package in *.deb; do # each holds some of these
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$unpacked" --wildcards './boot/vmlinuz*' './bin/busybox' \
        './usr/sbin/qemu-ga' '*/virtio.ko' '*/virtio_ring.ko' '*/virtio_pci*.ko' '*/virtio_blk.ko' \
        '*/virtio_console.ko' '*/button.ko' '*/evdev.ko' 2>/dev/null || true
done
cp "$unpacked"/bin/busybox "$unpacked"/usr/sbin/qemu-ga "$root/bin/"
find "$unpacked" -name '*.ko' -exec cp {} "$root/m/" \;
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
ldd "$root/bin/qemu-ga" | awk '$3 ~ /^\// { print $3 }' | xargs -I{} cp -L {} "$root/lib/x86_64-linux-gnu/"
install -m 755 "$here/init.sh" "$root/init"
cp "$unpacked"/boot/vmlinuz* "$out/vmlinuz"
(cd "$root" && find . | "$root/bin/busybox" cpio -o -H newc 2>/dev/null) >"$out/initrd.new"
mv "$out/initrd.new" "$out/initrd"
