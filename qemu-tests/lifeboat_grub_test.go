package qemutests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"reimager/boot"
	"reimager/initramfs"
	"reimager/qemu-tests/lab"
	"reimager/vm"
)

// lifeboatInit says what it was started with.
const lifeboatInit = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "LIFEBOAT BOOTED WITH $(/bin/busybox cat /proc/cmdline)"
/bin/busybox poweroff -f
`

// TestLifeboatBootsStockKernel boots a distribution's kernel with megabytes of initrd
// from a disk that is zeros but for a berth and sector 0, with a first kernel copy that
// cannot be read to its end. The small cases are in package boot.
func TestLifeboatBootsStockKernel(t *testing.T) {
	ctx := withTimeout(t)
	cache, err := lab.OpenCache()
	must(t, err)
	stock, err := lab.StockKernel(ctx, cache)
	must(t, err)
	kernel, err := os.ReadFile(stock.Image)
	must(t, err)

	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	f, err := os.Create(disk)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(256<<20))
	at := int64(131072)
	put := func(content []byte) boot.Blocks {
		t.Helper()
		_, err := f.WriteAt(content, at*boot.SectorBytes)
		must(t, err)
		b := boot.Blocks{Sector: at, Count: (int64(len(content)) + 4095) / 4096 * 8}
		at += b.Count
		return b
	}

	initrd := lifeboatInitrd(t)
	kernels, initrds := [2]boot.Blocks{put(kernel), put(kernel)}, [2]boot.Blocks{put(initrd), put(initrd)}
	text, err := boot.LifeboatScript(kernels, initrds, []string{"console=ttyS0", boot.LifeboatParameter + "=RUN@131072"})
	must(t, err)
	core := lifeboatCore(t, dir)
	made, bootSector, err := core.Make(put([]byte(text)), at)
	must(t, err)
	put(made)
	table := make([]byte, 512)
	copy(table[510:], "\x55\xaa")
	sector0, err := boot.LifeboatSector(bootSector, table)
	must(t, err)
	_, err = f.WriteAt(sector0, 0)
	must(t, err)

	blockdev, err := vm.FaultyBlockdev(0, disk, vm.Fault{Sector: kernels[0].Sector + kernels[0].Count - 9, IOType: "read"})
	must(t, err)
	// Little memory: a kernel that was loaded in part must not be in the way.
	guest := start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev}}, MemoryMiB: 256, NoReboot: true})
	wait(ctx, t, guest, "LIFEBOAT BOOTED WITH BOOT_IMAGE=(hd0)"+kernels[1].String()[len("($root)"):]+" console=ttyS0 "+boot.LifeboatParameter+"=RUN@131072")
}

// lifeboatInitrd has some megabytes that do not shrink, as the image's decoder has.
func lifeboatInitrd(t *testing.T) []byte {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	program, err := os.ReadFile(busybox)
	must(t, err)
	a := initramfs.New()
	must(t, a.File("/bin/busybox", program, 0o755))
	must(t, a.File("/init", []byte(lifeboatInit), 0o755))
	ballast := make([]byte, 12<<20)
	for i, x := 0, uint32(1); i < len(ballast); i++ { // xorshift32
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		ballast[i] = byte(x)
	}
	must(t, a.File("/ballast", ballast, 0o644))
	var b bytes.Buffer
	must(t, a.Write(&b, initramfs.Gzip))
	return b.Bytes()
}

func lifeboatCore(t *testing.T, dir string) *boot.LifeboatCore {
	t.Helper()
	config, image := filepath.Join(dir, "embedded.cfg"), filepath.Join(dir, "core.img")
	must(t, os.WriteFile(config, []byte(boot.LifeboatConfig()), 0o600))
	_, err := vm.Run(t.Context(), "grub-mkimage", append([]string{"-O", "i386-pc", "-c", config, "-o", image, "-p", "/"}, boot.LifeboatModules()...)...)
	must(t, err)
	coreImg, err := os.ReadFile(image)
	must(t, err)
	bootImg, err := os.ReadFile("/usr/lib/grub/i386-pc/boot.img")
	must(t, err)
	core, err := boot.ParseLifeboatCore(bootImg, coreImg)
	must(t, err)
	return core
}
