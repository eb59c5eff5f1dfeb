package qemutests

import (
	"bytes"
	"encoding/json"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/qemu-tests/writelog"
)

// A run with a lifeboat that nobody disturbs: the old GRUB proves that the lifeboat
// boots, which then replaces the system. With unmapped = "zero" nothing of the machine's
// secrets is left but in the files that have them.
func TestLifeboatReplacesMachine(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	rest := p.console
	for _, text := range []string{p.Old.Banner(), "armed; rebooting now",
		"stage gather", saysBoard, saysBoarded, saysProve, saysCast, "stage read back", "stage restore", "stage land", saysLanded, p.New.Banner()} {
		i := bytes.Index(rest, []byte(text))
		if i < 0 {
			t.Fatalf("the console lacks %q behind what comes before it", text)
		}
		rest = rest[i:]
	}
	for _, phase := range phases() {
		from, to, ok := p.interval(phase)
		t.Logf("%-9s writes %d to %d", phase, from, to)
		if !ok {
			t.Errorf("the disk was never seen %s", phase)
		}
	}
	p.checkNew(t, p.Disk, true)
	record := recordOf(t, p.Disk, lab.KioskLog, "/log/record.json")
	if record["outcome"] != "restored" || record["error"] != nil || record["attempts"] != 1.0 {
		t.Errorf("record: outcome %v, error %v, attempts %v; want restored, none, 1", record["outcome"], record["error"], record["attempts"])
	}
	p.checkForgotten(t)
}

// checkForgotten looks for what had boarded: on the disk of the new system there is
// neither the key nor a piece of the encrypted archive, wherever.
func (p *passage) checkForgotten(t *testing.T) {
	t.Helper()
	must(t, p.cut(t.TempDir(), []writelog.Cut{{At: p.resets[1], Loss: writelog.Nothing}}, func(_ writelog.Cut, disk string) error {
		if len(findAll(t, disk, scenario.VaultLine)) == 0 {
			t.Error("the vault is not on the old disk")
		}
		archive := p.boat.sections["archive"]
		if in := readRange(t, disk, p.boat.berth, p.boat.bytes); bytes.Contains(in, []byte(scenario.VaultLine)) {
			t.Error("the berth has a retained secret that is not encrypted")
		}
		var slot struct {
			Key string `json:"key"` // base64
		}
		must(t, json.Unmarshal(sealed(open(t, disk), p.boat.berth+berthKeySlot, keyMagic), &slot))
		if len(slot.Key) < 40 || len(findAll(t, p.Disk, slot.Key)) > 0 {
			t.Errorf("a key of %d letters; it must be on the disk while the boat sails, and then not any more", len(slot.Key))
		}
		content := readRange(t, disk, archive.Off, archive.Bytes)
		for at := 0; at+32 <= len(content); at += 4096 {
			if found := findAll(t, p.Disk, string(content[at:at+32])); len(found) > 0 {
				t.Fatalf("byte %d of the disk has what byte %d of the archive had", found[0], at)
			}
		}
		return nil
	}))
}
