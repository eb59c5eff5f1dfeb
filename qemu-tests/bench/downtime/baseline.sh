#!/bin/busybox sh
# What people write who need this once: the job of a reimage as a shell script in an
# initrd, with bzcat and dd, fixed sleeps, and names that are known beforehand.
/bin/busybox mkdir -p /proc /sys /dev /sysroot /kept /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo 3 >/proc/sys/kernel/printk
exec >/dev/console 2>&1
while read -r module; do insmod "/modules/$module"; done </modules/order
sleep 2

echo "baseline: stage 1"
mount -o ro /dev/sda5 /sysroot
cp /sysroot/release/new.img.bz2 /
umount /sysroot
mount -o ro /dev/sda2 /sysroot
mount -o ro /dev/sda6 /sysroot/kiosk
list="etc/machine-id etc/hostname etc/ssh etc/kiosk/keys srv kiosk/till*"
(cd /sysroot && for f in $list; do [ -e "$f" ] && echo "$f"; done) >/files
(cd /sysroot && tar -cf /kept/kept.tar -T /files)
umount /sysroot/kiosk /sysroot

echo "baseline: stage 2"
bzcat /new.img.bz2 | dd of=/dev/sda bs=1M

echo "baseline: stage 3"
sync
blockdev --rereadpt /dev/sda
mount /dev/sda2 /sysroot
mount /dev/sda6 /sysroot/kiosk
tar -xf /kept/kept.tar -C /sysroot
echo "baseline: owners"
sleep 5
echo "baseline: permissions"
sleep 5
umount /sysroot/kiosk /sysroot
sync
echo "baseline: done, rebooting in 5 seconds"
sleep 5
echo s >/proc/sysrq-trigger
echo u >/proc/sysrq-trigger
echo b >/proc/sysrq-trigger
