package check

import (
	"os"
	"path/filepath"
	"strconv"
)

// lowPower is the charge in per cent below which no run may begin on battery: a
// machine that writes its disk cannot stop in between.
const lowPower = 20

// supply is one of /sys/class/power_supply: Documentation/ABI/testing/sysfs-class-power.
type supply struct {
	name, kind  string // kind: "Mains", "Battery", "UPS", "USB", …
	online      bool
	discharging bool
	capacity    int // per cent; -1: it does not say
}

// supplies lists what powers the machine itself, as opposed to its mouse.
func (h Host) supplies() []supply {
	dir := h.sys("class/power_supply")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // a kernel that knows of none
	}
	var all []supply
	for _, e := range entries {
		at := func(attribute string) string { return text(filepath.Join(dir, e.Name(), attribute)) }
		if at("scope") == "Device" || at("present") == "0" {
			continue
		}
		s := supply{name: e.Name(), kind: at("type"), online: at("online") == "1" || at("online") == "2", discharging: at("status") == "Discharging", capacity: -1}
		if n, err := strconv.Atoi(at("capacity")); err == nil {
			s.capacity = n
		}
		all = append(all, s)
	}
	return all
}

func judgePower(all []supply) Result {
	const hint = "connect it to the mains: a run that has begun to write cannot be interrupted"
	// A machine runs on as long as the fullest of its batteries.
	mains, battery, charge := "", "", -1
	for _, s := range all {
		switch s.kind {
		case "Mains", "USB", "Wireless":
			if s.online {
				mains = s.name
			}
		case "Battery", "UPS":
			if !s.discharging {
				continue
			}
			if battery == "" || s.capacity > charge {
				battery, charge = s.name, s.capacity
			}
		}
	}
	switch {
	case battery == "" && mains == "":
		return pass(Power, "this machine tells of no battery")
	case battery == "":
		return pass(Power, "on mains (%s)", mains)
	case charge < 0:
		return warn(Power, hint, "on battery (%s), which does not say how full it is", battery)
	case mains != "":
		return warn(Power, "see whether the mains supply is strong enough", "on mains (%s), but the battery (%s, at %d%%) is being drained", mains, battery, charge)
	case charge < lowPower:
		return fail(Power, hint, "on battery (%s) at %d%%, expected at least %d%%", battery, charge, lowPower)
	}
	return warn(Power, hint, "on battery (%s) at %d%%", battery, charge)
}
