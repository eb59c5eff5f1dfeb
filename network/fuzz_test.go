package network

import (
	"testing"
	"unicode"
)

func FuzzParsers(f *testing.F) {
	for _, seed := range []string{
		"auto eth0 /eth*\niface br0 inet dhcp\n bridge_ports eth0 \\\n eth1\n",
		"[Match]\nName=en* !eth0\n[connection]\ntype=vlan\ninterface-name=eth0.5\n[match]\ninterface-name=a;b\n",
		"network:\n  ethernets:\n    \"eth0\": {match: {name: x}, set-name: y}\n    a:\n      match: {name: \"en*\"}\n",
		"DEVICE=\"eth0\"\nTYPE=Bridge\n",
		"set a=$a$a\nlinux /v root=${a net.ifnames=0 ${}\noptions root=$a\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found := &findings{file: "f", defined: map[string]bool{}}
		for _, parse := range []func(*findings, string){(*findings).ifupdown, (*findings).networkd, (*findings).netdev,
			(*findings).networkManager, (*findings).ifcfg, (*findings).netplan} {
			parse(found, text)
		}
		commandLines(text, map[string]string{})
		matchesAll(ini(text)["Match"])
		c := checker{by: naming{predictable: true}, machine: machine{cards: []card{{names: []string{"p0s3"}}}}}
		for _, m := range found.mentions {
			for _, name := range m.names {
				for _, r := range name {
					if !unicode.IsPrint(r) || r == ' ' {
						t.Errorf("name %q has %q", name, r)
					}
				}
			}
			c.judgeAll(m, found.defined)
			c.by.predictable = !c.by.predictable
		}
	})
}
