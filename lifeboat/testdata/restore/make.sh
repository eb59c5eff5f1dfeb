#!/usr/bin/env bash
# Records the writes and flushes of a real ext4 while files are put back into it, for
# the simulation of power cuts. Needs root, e2fsprogs, and QEMU's storage daemon with FUSE.
#
#   before.gz  the filesystem as the image has it
#   log.gz     what the kernel then sent to the disk, in the format of dm-log-writes:
#              Documentation/admin-guide/device-mapper/log-writes.rst
#   after      SHA-256 of the filesystem afterwards
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cd "$work"

mkdir -p new/etc/ssh new/usr/bin new/var/log new/home/kiosk mnt
echo debian >new/etc/hostname
seq 4000 >new/usr/bin/program
printf 'root:x:0:0::/root:/bin/sh\n' >new/etc/passwd
truncate -s 2304K disk
mkfs.ext4 -q -b 1024 -N 64 -O ^resize_inode -m 0 -J size=1 -E hash_seed=00000000-0000-0000-0000-000000000001 \
	-U 00000000-0000-0000-0000-000000000002 -d new disk
gzip -9nc disk >"$here/before.gz"

truncate -s 1M log
touch export
qemu-storage-daemon --blockdev driver=file,node-name=disk-file,filename=disk --blockdev driver=raw,node-name=disk,file=disk-file \
	--blockdev driver=file,node-name=log-file,filename=log --blockdev driver=raw,node-name=log,file=log-file \
	--blockdev driver=blklogwrites,node-name=both,file=disk,log=log,log-sector-size=512 \
	--export type=fuse,id=export,node-name=both,mountpoint="$work/export",writable=on &
daemon=$!
until [ "$(stat -c %s export)" -gt 0 ]; do sleep 0.1; done
loop=$(losetup --show -f export)

mount -t ext4 "$loop" mnt
printf 'root:x:0:0::/root:/bin/sh\nkiosk:x:1000:1000::/home/kiosk:/bin/sh\n' >mnt/etc/passwd+
sync mnt/etc/passwd+
mv mnt/etc/passwd+ mnt/etc/passwd
echo kiosk-17 >mnt/etc/hostname
for key in rsa ecdsa ed25519; do
	seq 100 300 >mnt/etc/ssh/ssh_host_${key}_key
	chmod 600 mnt/etc/ssh/ssh_host_${key}_key
	sync mnt/etc/ssh/ssh_host_${key}_key
done
mkdir -p mnt/home/kiosk/.config/browser
seq 9000 >mnt/home/kiosk/.config/browser/places
sync mnt/home/kiosk/.config/browser/places
for n in $(seq 6); do seq "$n" $((n * 150)) >"mnt/home/kiosk/file$n"; done
ln -s file1 mnt/home/kiosk/link
ln mnt/home/kiosk/file2 mnt/home/kiosk/hard
chown -R 1000:1000 mnt/home/kiosk
setfattr -n user.note -v kept mnt/home/kiosk/file3
sync -f mnt
umount mnt
mount -t ext4 -o ro "$loop" mnt
umount mnt
mount -t ext4 "$loop" mnt
seq 2000 >mnt/var/log/reimage.log
echo '{"outcome":"restored"}' >mnt/var/log/reimage.json
sync -f mnt
umount mnt

losetup -d "$loop"
kill "$daemon"
wait "$daemon" || true
# The log ends with its last entry; the file has room for more.
gzip -9nc log >"$here/log.gz"
sha256sum disk | cut -d ' ' -f 1 >"$here/after"
rm -rf "$work"
