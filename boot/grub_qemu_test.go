package boot

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// speakingKernel is a bzImage that writes its command line and, behind a '~', its
// initrd up to a NUL to the serial port and halts: what GRUB made of an entry, without
// a kernel.
func speakingKernel() []byte {
	image := kernelImage(nil, "6.1.0")
	le := binary.LittleEndian
	le.PutUint16(image[kernelProtocol:], 0x0206)
	le.PutUint32(image[0x214:], 0x100000)   // code32_start
	le.PutUint32(image[0x22c:], 0x37ffffff) // initrd_addr_max
	le.PutUint32(image[0x230:], 0x100000)   // kernel_alignment
	le.PutUint32(image[0x238:], kernelCmdlineMax)
	for _, code := range [][]byte{
		{0x8b, 0xbe, 0x28, 0x02, 0x00, 0x00}, // mov edi, [esi+0x228]: cmd_line_ptr
		{0x66, 0xba, 0xfd, 0x03},             // wait: mov dx, 0x3fd
		{0xec},                               // in al, dx
		{0xa8, 0x20},                         // test al, 0x20: transmitter empty
		{0x74, 0xf7},                         // jz wait
		{0x66, 0xba, 0xf8, 0x03},             // mov dx, 0x3f8
		{0x8a, 0x07},                         // mov al, [edi]
		{0x47},                               // inc edi
		{0x84, 0xc0},                         // test al, al
		{0x74, 0x03},                         // jz end
		{0xee},                               // out dx, al
		{0xeb, 0xe9},                         // jmp wait
		{0xb0, '~'},                          // end: mov al, '~'
		{0xee},                               // out dx, al
		{0x8b, 0xbe, 0x18, 0x02, 0x00, 0x00}, // mov edi, [esi+0x218]: ramdisk_image
		{0x31, 0xc0},                         // xor eax, eax
		{0x87, 0x86, 0x18, 0x02, 0x00, 0x00}, // xchg eax, [esi+0x218]: only once
		{0x85, 0xc0},                         // test eax, eax
		{0x75, 0xd4},                         // jnz wait
		{0xf4},                               // halt: hlt
		{0xeb, 0xfd},                         // jmp halt
	} {
		image = append(image, code...)
	}
	return append(image, make([]byte, 4096)...)
}

// grubDisk makes a disk that boots by GRUB into the system at root, which is on
// an ext4 in the only partition, and returns the filesystem's byte offset.
func grubDisk(t *testing.T, root, uuid string) (disk string, offset int64) {
	t.Helper()
	needGRUB(t)
	needTool(t, "qemu-system-x86_64")
	dir := t.TempDir()
	core := filepath.Join(dir, "core.img")
	run(t, "grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)/boot/grub",
		"biosdisk", "part_msdos", "part_gpt", "ext2", "normal", "configfile", "test", "search", "search_fs_uuid",
		"linux", "boot", "reboot", "serial", "terminal", "loadenv", "echo", "sleep", "true", "regexp", "chain")

	disk, offset = filepath.Join(dir, "disk"), 1<<20
	mbr := make([]byte, 512)
	copy(mbr[:440], readFile(t, grubModuleDir+"/boot.img"))
	copy(mbr[446:], []byte{0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x78, 0, 0}) // 2048 +30720
	mbr[510], mbr[511] = 0x55, 0xaa
	writeFile(t, disk, string(mbr)+readFile(t, core))
	if err := os.Truncate(disk, 16<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-U", uuid, "-d", root, "-E", "offset=1048576", disk, "15M")
	return disk, offset
}

// systemOf is a copy of the filesystem on a disk of grubDisk.
func systemOf(t *testing.T, disk string, offset int64) string {
	t.Helper()
	system := filepath.Join(t.TempDir(), "system")
	writeFile(t, system, readFile(t, disk)[offset:])
	return system
}

// oldSystem is a grub.cfg that boots a kernel, which says so on the serial port by its
// command line, and what $root was.
const oldSystem = "serial --unit=0\nterminal_input serial\nterminal_output serial\nset timeout=0\n" +
	"menuentry 'old' {\n\tlinux /boot/old OLD SYSTEM BOOTS from $root\n}\n" + stockConfig

// TestEntryInGRUB boots entries by a real GRUB that nobody stands before. The
// old system says so when it is booted.
func TestEntryInGRUB(t *testing.T) {
	// An unknown command would count as true in GRUB's "if".
	const cannotWrite = "true\nif [ 1 = 2 ]; then save_env next_entry; fi\n"
	for _, tc := range []struct {
		name    string
		entry   Entry
		without string // file that is removed again
		config  func(string) string
		gate    func(*testing.T, string) // changes the gate at a path
		want    string
		clears  bool
	}{
		{name: "boots", entry: awkwardEntry(), clears: true,
			want: ` a=$b "c=d e" f={g};h i=#j k=*? l=<m>|&~`},
		{name: "kernel missing", entry: testEntry(), without: testEntry().Kernel, clears: true,
			want: "OLD SYSTEM BOOTS"},
		{name: "initrd missing", entry: testEntry(), without: testEntry().Initrd, clears: true,
			want: "OLD SYSTEM BOOTS"},
		{name: "initrd missing and next_entry stays", entry: testEntry(), without: testEntry().Initrd,
			config: func(config string) string {
				return strings.Replace(config, "save_env next_entry\n", cannotWrite, 1)
			},
			want: "OLD SYSTEM BOOTS"},
		{name: "filesystem missing", entry: func() Entry {
			e := testEntry()
			e.FSUUID = "ffffffff-0000-4000-8000-123456789abc"
			return e
		}(), clears: true, want: "OLD SYSTEM BOOTS"},
		{name: "gate closed and next_entry stays", entry: testEntry(), gate: func(t *testing.T, gate string) {
			writeFile(t, gate, string(testGate(t, testEntry().RunID, GateTried)))
		}, config: func(config string) string {
			return strings.Replace(config, "save_env next_entry\n", cannotWrite, 1)
		}, want: "OLD SYSTEM BOOTS"},
		{name: "gate of another run", entry: testEntry(), gate: func(t *testing.T, gate string) {
			writeFile(t, gate, string(testGate(t, "RUN8", GateArmed)))
		}, clears: true, want: "OLD SYSTEM BOOTS"},
		{name: "gate missing", entry: testEntry(), gate: func(t *testing.T, gate string) {
			if err := os.Remove(gate); err != nil {
				t.Fatal(err)
			}
		}, clears: true, want: "OLD SYSTEM BOOTS"},
		{name: "gate damaged", entry: testEntry(), gate: func(t *testing.T, gate string) {
			writeFile(t, gate, "reimager_gate=armed\nreimager_run=RUN7\n")
		}, clears: true, want: "OLD SYSTEM BOOTS"},
		{name: "gate missing and grubenv says armed", entry: testEntry(), gate: func(t *testing.T, gate string) {
			if err := os.Remove(gate); err != nil {
				t.Fatal(err)
			}
		}, config: func(config string) string {
			return "set reimager_gate=armed\nset reimager_run=RUN7\n" + config
		}, clears: true, want: "OLD SYSTEM BOOTS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, grub := grubRoot(t)
			config := oldSystem
			if tc.config != nil {
				config = tc.config(config)
			}
			writeFile(t, filepath.Join(root, "boot/grub/grub.cfg"), config)
			writeFile(t, filepath.Join(root, tc.entry.Kernel), string(speakingKernel()))
			writeFile(t, filepath.Join(root, tc.entry.Initrd), "initrd")
			writeFile(t, filepath.Join(root, tc.entry.Gate), string(testGate(t, tc.entry.RunID, GateArmed)))
			writeFile(t, filepath.Join(root, "boot/old"), string(speakingKernel()))
			if tc.gate != nil {
				tc.gate(t, filepath.Join(root, tc.entry.Gate))
			}
			if tc.without != "" {
				if err := os.Remove(filepath.Join(root, tc.without)); err != nil {
					t.Fatal(err)
				}
			}
			checkError(t, grub.InstallEntry(tc.entry), "")
			checkError(t, grub.SetNextEntry(tc.entry.ID), "")
			disk, offset := grubDisk(t, root, testEntry().FSUUID)

			// An entry that fails may start the machine again.
			m := startMachine(t, "-drive", "file="+disk+",format=raw,snapshot=off")
			m.waitSerial(tc.want)
			m.quit()

			env, err := ParseEnv([]byte(onDisk(t, systemOf(t, disk, offset), "/boot/grub/grubenv")))
			if err != nil {
				t.Fatal(err)
			}
			if next, _ := env.Get(nextEntry); (next == "") != tc.clears {
				t.Errorf("next_entry = %q afterwards; want it cleared: %v", next, tc.clears)
			}
		})
	}
}
