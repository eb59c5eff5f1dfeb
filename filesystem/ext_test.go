package filesystem

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type extVariant struct {
	name string
	args []string
	size int64
}

func (v extVariant) quota() bool { return strings.Contains(v.name, "quota") }

func extVariants() []extVariant {
	v := func(name, args string) extVariant { return extVariant{name, strings.Fields(args), 48 << 20} }
	return []extVariant{
		v("defaults", "-t ext4"),
		v("1k", "-b 1024"),
		v("2k", "-b 2048"),
		v("4k", "-b 4096"),
		{"64k", strings.Fields("-b 65536"), 256 << 20},
		v("small groups", "-b 1024 -g 512"),
		v("small groups, 4k", "-b 4096 -g 1024 -i 8192"),
		v("no checksums", "-O ^metadata_csum"),
		v("gdt_csum", "-b 1024 -O ^metadata_csum,uninit_bg"),
		v("gdt_csum, 32 bit", "-b 1024 -O ^metadata_csum,uninit_bg,^64bit"),
		v("32 bit", "-b 1024 -O ^64bit"),
		v("uuid changed", "-b 1024 -O metadata_csum_seed"),
		v("bigalloc", "-b 4096 -O bigalloc -C 65536"),
		v("bigalloc, 2k", "-b 2048 -O bigalloc,^64bit -C 4096"),
		v("meta_bg", "-b 1024 -g 1024 -O meta_bg,^resize_inode"),
		v("meta_bg, 4k", "-b 4096 -g 512 -O meta_bg,^resize_inode,^64bit -i 16384"),
		v("no flex_bg", "-b 1024 -O ^flex_bg"),
		v("flex_bg of 64", "-b 1024 -G 64 -g 1024"),
		v("packed metadata", "-b 1024 -E packed_meta_blocks=1"),
		v("sparse_super2", "-b 1024 -O sparse_super2"),
		v("every superblock", "-b 1024 -O ^sparse_super,^resize_inode"),
		v("inline_data", "-O inline_data -I 256"),
		v("quota, project", "-O quota,project"),
		v("multiple mount protection", "-O mmp"),
		v("orphan file", "-b 1024 -O orphan_file"),
		v("fast_commit", "-O fast_commit"),
		v("many features", "-O large_dir,casefold,encrypt,verity,ea_inode"),
		v("no lazy initialisation", "-b 1024 -E lazy_itable_init=0,lazy_journal_init=0"),
		v("reserved", "-m 40 -E resize=2000000"),
		v("news", "-T news"),
		v("no journal", "-O ^has_journal"),
		v("ext3", "-t ext3"),
		v("ext2", "-t ext2"),
		v("ext2, 1k", "-t ext2 -b 1024 -I 128 -O ^resize_inode"),
		{"odd size", strings.Fields("-b 1024"), 8<<20 + 3*1024 + 700},
		{"last group short", strings.Fields("-b 1024"), (4*8192 + 700) << 10},
		{"tiny", strings.Fields("-b 1024 -N 16"), 256 << 10},
	}
}

// fillFrom is a directory for mkfs.ext4 -d.
func fillFrom(t testing.TB, large bool) string {
	t.Helper()
	dir := t.TempDir()
	sizes := []int{0, 10, 4096, 5000}
	if large {
		sizes = append(sizes, 100_000, 3_000_000, 20_000, 700_000)
	}
	for i, n := range sizes {
		if err := os.WriteFile(filepath.Join(dir, "f"+strconv.Itoa(i)), []byte(strings.Repeat("x", n)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func makeExt(t testing.TB, v extVariant) string {
	t.Helper()
	image := newImage(t, v.size)
	args := append([]string{"-q", "-F"}, v.args...)
	if !v.quota() {
		args = append([]string{"-d", fillFrom(t, v.size > 1<<20)}, args...)
	}
	if v.args[0] != "-t" {
		args = append([]string{"-t", "ext4"}, args...)
	}
	tool(t, "mke2fs", append(args, image)...)
	return image
}

// dumpedFree is the free space as dumpe2fs lists it, group by group.
func dumpedFree(t testing.TB, image string) []Extent {
	t.Helper()
	text := tool(t, "dumpe2fs", image)
	size, all := field(t, text, "Block size:"), field(t, text, "Block count:")
	ratio := int64(1)
	if strings.Contains(text, "Cluster size:") {
		ratio = field(t, text, "Cluster size:") / size
	}
	var free []Extent
	for line := range strings.Lines(text) {
		list, ok := strings.CutPrefix(line, "  Free blocks: ")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(strings.TrimSpace(list), ", ") {
			from, to, run := strings.Cut(part, "-")
			if from == "" {
				continue
			}
			first, err := strconv.ParseInt(from, 10, 64)
			last := first + ratio - 1
			if err == nil && run {
				last, err = strconv.ParseInt(to, 10, 64)
				last += ratio - 1 // it names the first block of the last cluster
			}
			if err != nil {
				t.Fatalf("dumpe2fs: %q: %v", part, err)
			}
			free = add(free, first*size, (min(last+1, all)-first)*size)
		}
	}
	return free
}

func TestExtFree(t *testing.T) {
	for _, v := range extVariants() {
		t.Run(v.name, func(t *testing.T) {
			image := makeExt(t, v)
			// e2fsck and a writing debugfs wait 11 seconds each where mounts are guarded, and mke2fs -d
			// does not count quotas right.
			guarded := strings.Contains(v.name, "multiple mount")
			steps := []string{"made", "emptied"}
			if guarded || v.quota() {
				steps = steps[:1]
			}
			for _, step := range steps {
				if step == "emptied" {
					tool(t, "debugfs", "-w", "-R", "rm /f3", image)
				}
				free := unallocated(t, image)
				if free.Whole != "" {
					t.Fatalf("%s: %s", step, free.Whole)
				}
				if diff := cmp.Diff(dumpedFree(t, image), free.Extents); diff != "" {
					t.Fatalf("%s: free space differs from dumpe2fs (-want +got):\n%s", step, diff)
				}
			}
			if !guarded {
				spoil(t, image, unallocated(t, image))
				tool(t, "e2fsck", "-fn", image)
			}
		})
	}
}

// A kernel leaves other traces than mkfs: groups initialised on the way, counts in the superblock.
func TestExtFreeAfterUse(t *testing.T) {
	for _, args := range []string{"-t ext4", "-t ext4 -b 1024 -g 2048", "-t ext4 -O bigalloc -C 16384 -b 4096", "-t ext3 -b 1024", "-t ext2", "-t ext4 -O ^metadata_csum,uninit_bg -b 1024"} {
		t.Run(args, func(t *testing.T) {
			image := newImage(t, 96<<20)
			tool(t, "mke2fs", append(strings.Fields("-q -F "+args), image)...)
			withMount(t, image, "rw", func(dir string) { churn(t, dir) })
			free := unallocated(t, image)
			if diff := cmp.Diff(dumpedFree(t, image), free.Extents); diff != "" {
				t.Fatalf("%s; free space differs from dumpe2fs (-want +got):\n%s", free.Whole, diff)
			}
			want := contents(t, image, "ro")
			spoil(t, image, free)
			tool(t, "e2fsck", "-fn", image)
			if diff := cmp.Diff(want, contents(t, image, "ro")); diff != "" {
				t.Errorf("files differ (-want +got):\n%s", diff)
			}
		})
	}
}
