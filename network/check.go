// Package network tells which names of network cards a kept configuration uses that
// the new system will not give. It looks at files and at what the kernel says of the
// hardware; network drivers need not be loaded. It is silent where it cannot know: of
// names that somebody chose, of cards that are not on PCI, of a naming that it does
// not understand.
package network

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Warning is a name that a kept file uses and the new system will not give.
type Warning struct {
	File      string // absolute, in the new system
	Interface string // the name, or the alternatives of which none will do
	Why       string // a sentence that names both and what to expect instead
}

// The families of names that are judged, each with the patterns that are only for it.
var (
	kernelName      = regexp.MustCompile(`^(eth|wlan)[0-9]+$`)
	kernelGlob      = regexp.MustCompile(`^(eth|wlan)[0-9]*[*?[]`)
	predictableName = regexp.MustCompile(`^(en|wl)(o[0-9]+|(P[0-9]+)?(p[0-9]+)?s[0-9]+(f[0-9]+)?)(n[a-z0-9]+|d[0-9]+)?$`)
	predictableGlob = regexp.MustCompile(`^(en[*?[]|(en|wl)[ops][a-z0-9]*[*?[])`)
	slotName        = regexp.MustCompile(`^..(P[0-9]+)?s`)
	biosName        = regexp.MustCompile(`^(em[0-9]+|p[0-9]+p[0-9]+)(_[0-9]+)?$`)
)

// Check compares the names that kept files of the new system use with those that it
// will give to the cards of this machine. kept is asked with absolute paths of the
// new system; sys is where sysfs is mounted. The error joins all that could not be
// read; the warnings are of the rest.
func Check(newRoot *os.Root, kept func(path string) bool, sys string) ([]Warning, error) {
	s := &system{root: newRoot}
	c := checker{by: s.naming()}
	found := s.findings()
	var err error
	c.machine, err = readMachine(sys)
	var warnings []Warning
	for _, m := range found.mentions {
		if c.by.doubt || !kept(m.file) {
			continue
		}
		if why := c.judgeAll(m, found.defined); why != "" {
			names := strings.Join(m.names, " ")
			warnings = append(warnings, Warning{m.file, names, fmt.Sprintf("%s names %s, but %s", m.file, names, why)})
		}
	}
	return warnings, errors.Join(append(s.errs, err)...)
}

type checker struct {
	by      naming
	machine machine
}

// judgeAll says why none of the alternatives of a mention will exist, or nothing.
func (c *checker) judgeAll(m mention, defined map[string]bool) (why string) {
	for _, name := range m.names {
		card := physical(name)
		reason := c.judge(card, m.altNames)
		if reason == "" || defined[name] || defined[card] || c.by.named[card] {
			return ""
		}
		why = reason
	}
	return why
}

// judge says why no card will have a name, or nothing.
func (c *checker) judge(name string, altNames bool) string {
	wireless := strings.HasPrefix(name, "wl")
	cards := c.machine.of(wireless)
	switch {
	case kernelName.MatchString(name), kernelGlob.MatchString(name):
		// A wireless card on SDIO has no predictable name and stays wlan0.
		if !c.by.predictable || c.machine.keepsKernelNames || wireless && len(cards) == 0 {
			return ""
		}
		return "the new system gives predictable names (" + c.by.why + ")" + c.instead(cards, wireless)
	case biosName.MatchString(name) && !c.by.biosdevname:
		return "the new system has no biosdevname, which gives such names" + c.instead(cards, wireless)
	case !predictableName.MatchString(name) && !predictableGlob.MatchString(name):
		return ""
	case !c.by.predictable && (!altNames || !c.by.altNames):
		return "the new system keeps the kernel's names (" + c.by.why + ")" + c.instead(cards, wireless)
	case len(cards) == 0, predictableGlob.MatchString(name), c.fits(name),
		slotName.MatchString(name) && !c.machine.slots: // the drivers that know slots may be missing here
		return ""
	}
	return "no card of this machine gets that name" + c.instead(cards, wireless)
}

// fits tells whether a card may get a predictable name. Behind what is known without a
// driver comes the card's port.
func (c *checker) fits(name string) bool {
	return slices.ContainsFunc(c.machine.cards, func(card card) bool {
		return slices.ContainsFunc(card.names, func(known string) bool {
			port, ok := strings.CutPrefix(name[2:], known)
			return ok && (port == "" || port[0] == 'n' || port[0] == 'd')
		})
	})
}

// instead says what the cards will be called, unless something else may name them.
func (c *checker) instead(cards []card, wireless bool) string {
	const shown = 8
	if len(cards) == 0 || len(cards) > shown || len(c.by.named) > 0 || c.by.biosdevname {
		return ""
	}
	prefix, kernel := "en", "eth"
	if wireless {
		prefix, kernel = "wl", "wlan"
	}
	var names []string
	for i, card := range cards {
		if c.by.predictable {
			names = append(names, prefix+strings.Join(card.names, " or "+prefix))
		} else {
			names = append(names, fmt.Sprint(kernel, i))
		}
	}
	if len(names) == 1 {
		return ": this machine's card will be " + names[0]
	}
	return ": this machine's cards will be " + strings.Join(names, ", ")
}
