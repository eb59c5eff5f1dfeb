// Package reimager holds the tests of how the code is laid out.
package reimager

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rules say which of our packages a package may import, directly or not, and why
// it is held to that. A package that is not named may not import anything of ours.
func rules() map[string]struct {
	may []string
	why string
} {
	type rule = struct {
		may []string
		why string
	}
	base := []string{"report"}
	stages := []string{"accounts", "boot", "config", "delivery", "disk", "fault", "hook", "image", "image/bzip2", "image/zstd", "imaging", "kmod", "lifeboat", "network", "report", "retain", "screen/texts", "wake"}
	build := []string{"accounts", "boot", "config", "disk", "image", "image/bzip2", "image/zstd", "initramfs", "kmod", "report", "retain", "screen/texts"}
	return map[string]rule{
		"report":          {nil, "everything reports, so it may depend on nothing"},
		"fault":           {nil, "it has to vanish from a real init"},
		"screen/texts":    {nil, "the configuration is checked against them, so they may depend on nothing"},
		"screen":          {append([]string{"screen/texts"}, base...), "what is shown depends on what is told, and on nothing else of a run"},
		"config":          {append([]string{"screen/texts"}, base...), "it is the contract of builder, machine and init and must not know any of them"},
		"kmod":            {base, "builder and init share it"},
		"disk":            {base, "a disk knows no image, so that the write path can be tested with any bytes"},
		"disk/simdisk":    {append([]string{"disk"}, base...), "it stands in for a disk, and knows nothing of what is done to it"},
		"image":           {append([]string{"image/bzip2", "image/zstd"}, base...), "an image knows no disk, so that it can be decoded anywhere"},
		"image/zstd":      {nil, "a decoder stands alone, so that it can be fuzzed alone"},
		"imaging":         {append([]string{"disk", "image", "image/bzip2", "image/zstd"}, base...), "the engine joins image and disk, and knows nothing of runs and machines"},
		"image/bzip2":     {nil, "a decoder stands alone, so that it can be fuzzed alone"},
		"accounts":        {base, "merging accounts is a matter of two sets of files, and of nothing else"},
		"network":         {nil, "it reads the files of any system and decides nothing"},
		"hook":            {[]string{"config", "disk", "kmod", "report", "screen/texts", "wake"}, "it works in a mounted system, whatever brought it there"},
		"retain":          {append([]string{"accounts"}, base...), "it works between any two directories, without disks or images"},
		"retain/treetest": {nil, "it shares no code with what it tests"},
		"boot":            {base, "it decides no policy"},
		"lifeboat":        {append([]string{"boot", "disk", "image", "image/bzip2", "image/zstd", "imaging"}, base...), "it is told what boards and when, so that each cut can be simulated without a machine"},
		"initramfs":       {base, "builder and machine share it"},
		"wake":            {[]string{"kmod", "report"}, "it serves whatever runs on the bare kernel"},
		"delivery":        {[]string{"config", "report", "screen/texts"}, "init leaves it in the new system, so it opens no connection"},
		"delivery/send":   {[]string{"config", "delivery", "report", "screen/texts"}, "only a running system sends; nothing of it may be linked into PID 1"},
		"cli":             {base, "commands share it"},
		"check":           {append([]string{"initramfs", "initrd", "stages"}, stages...), "it judges beforehand by the rules that a run goes by"},
		"stages":          {stages, "stages put the rooms together"},
		"init":            {append([]string{"screen", "stages"}, stages...), "PID 1 carries nothing that a run does not need"},
		"initrd":          {[]string{"accounts", "boot", "config", "image", "image/bzip2", "image/zstd", "initramfs", "kmod", "report", "retain", "screen/texts"}, "builder and machine read what was baked alike"},
		"filesystem":      {append([]string{"disk"}, base...), "only the builder looks into filesystems; init mounts them"},
		"pack":            {append([]string{"filesystem", "initrd"}, build...), "it makes releases; whoever reads them must not link what makes them"},
		"vm":              {base, "a virtual machine knows nothing of what runs in it"},
		"prove":           {append([]string{"initrd", "vm"}, build...), "it tries a release out from outside, as a machine gets it"},
		"media":           {append([]string{"initrd"}, build...), "it makes what a machine boots; it boots nothing"},
		"imagebuild":      {append([]string{"cli", "filesystem", "initrd", "media", "pack", "prove", "vm"}, build...), "a build host has no machine to wake"},
		"reimager":        {append([]string{"check", "cli", "delivery/send", "initramfs", "initrd", "stages"}, stages...), "the machine's side uses every room"},
	}
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Fields(string(out))
}

func TestDirectionOfImports(t *testing.T) {
	for _, path := range list(t, "./...") {
		name, ours := strings.CutPrefix(path, "reimager/")
		if !ours || strings.HasPrefix(name, "qemu-tests") {
			continue
		}
		rule, ok := rules()[name]
		if !ok {
			t.Errorf("package %s has no rule: say in deps_test.go what it may import, and why", name)
		}
		for _, dep := range list(t, "-deps", path) {
			d, ours := strings.CutPrefix(dep, "reimager/")
			if ours && d != name && !slices.Contains(rule.may, d) {
				t.Errorf("%s imports %s: %s", name, d, rule.why)
			}
		}
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// What is linked into PID 1 is worth a look at each new line.
func TestDependenciesOfInit(t *testing.T) {
	var got []string
	for _, dep := range list(t, "-deps", "./init") {
		if first, _, _ := strings.Cut(dep, "/"); strings.Contains(first, ".") || first == "reimager" {
			got = append(got, dep)
		}
	}
	slices.Sort(got)
	golden := filepath.Join("init", "deps.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Fields(string(want)), got); diff != "" {
		t.Errorf("init's dependencies changed; look at each, then run go test -run Init . -update (-want +got):\n%s", diff)
	}
}
