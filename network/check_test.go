package network

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes files beneath a new directory: path → content; "-> target" is a link,
// "directory" an empty directory.
func tree(t *testing.T, files ...map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{}
	for _, f := range files {
		maps.Copy(all, f)
	}
	for name, content := range all {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, name)
		} else if content == "directory" {
			err = os.Mkdir(name, 0o755)
		} else {
			err = os.WriteFile(name, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type files = map[string]string

const defaultLink = "[Match]\nOriginalName=*\n\n[Link]\nNamePolicy=keep kernel database onboard slot path\n" +
	"AlternativeNamesPolicy=database onboard slot path\nMACAddressPolicy=persistent\n"

func debian12() files {
	return files{
		"usr/lib/systemd/systemd-udevd": "-> ../../bin/udevadm",
		"usr/bin/udevadm":               "ELF",
		"lib":                           "-> usr/lib",
		"usr/lib/systemd/network/99-default.link":        defaultLink,
		"usr/lib/systemd/network/73-usb-net-by-mac.link": "[Match]\nPath=*-usb-*\n[Link]\nNamePolicy=mac\n",
		"usr/lib/systemd/network/80-container-ve.link":   "[Match]\nKind=veth\nOriginalName=ve-*\n[Link]\nNamePolicy=keep\n",
		"usr/lib/udev/rules.d/80-net-setup-link.rules":   `NAME=="", ENV{ID_NET_NAME}!="", NAME="$env{ID_NET_NAME}"`,
		"boot/grub/grub.cfg":                             "set default=0\nmenuentry 'x' {\n\tlinux\t/vmlinuz root=UUID=1 ro quiet\n}\nmenuentry 'm' {\n linux16 /memtest net.ifnames=0\n}\n",
		"etc/default/grub":                               "GRUB_CMDLINE_LINUX=\"net.ifnames=0\"\n",
	}
}

// kernelNames is a system whose grub.cfg turns predictable names off.
func kernelNames() files {
	f := debian12()
	f["boot/grub/grub.cfg"] = "linux /vmlinuz root=UUID=1 ro net.ifnames=0\nlinux /vmlinuz root=UUID=1 ro single\n"
	return f
}

// qemu has one virtio card: enp0s3, also ens3.
func qemu() files {
	return files{
		"bus/pci/devices/0000:00:03.0/class":  "0x020000\n",
		"bus/pci/devices/0000:00:03.0/config": "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"bus/pci/devices/0000:00:01.0/class":  "0x060100\n",
		"bus/pci/slots/3/address":             "0000:00:03\n",
		"class/net/lo/type":                   "772\n",
	}
}

func with(base files, more files) files {
	maps.Copy(base, more)
	return base
}

func check(t *testing.T, root, sys files) ([]Warning, error) {
	t.Helper()
	r, err := os.OpenRoot(tree(t, root))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	kept := func(path string) bool { return strings.HasPrefix(path, "/etc/") && !strings.Contains(path, "notkept") }
	return Check(r, kept, tree(t, sys))
}

func TestWarning(t *testing.T) {
	got, err := check(t, with(debian12(), files{"etc/network/interfaces": "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n"}), qemu())
	if err != nil {
		t.Fatal(err)
	}
	want := []Warning{{"/etc/network/interfaces", "eth0",
		"/etc/network/interfaces names eth0, but the new system gives predictable names (net.ifnames is not 0): this machine's card will be ens3 or enp0s3"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each configuration system, asked under both policies which names it is warned of.
func TestConfigurations(t *testing.T) {
	const (
		connections = "etc/NetworkManager/system-connections/"
		scripts     = "etc/sysconfig/network-scripts/"
	)
	for _, test := range []struct {
		name                string
		files               files
		predictable, kernel []string
	}{
		{"ifupdown", files{"etc/network/interfaces": "source /etc/network/interfaces.d/*\n# iface eth9\nauto /eth*\niface eth0.5 inet static\nmapping eth1\niface enp0s3 \\\n inet dhcp\niface enp9s0 inet dhcp\n"},
			[]string{"eth*", "eth0.5", "eth1", "enp9s0"}, []string{"enp0s3", "enp9s0"}},
		{"ifupdown bridge and bond", files{"etc/network/interfaces.d/br": "iface br0 inet dhcp\n bridge_ports eth0 none\niface eth7 inet dhcp\n bond-mode 1\n bond-slaves ens3 ens4\niface vlan5 inet dhcp\n vlan-raw-device eth1\n"},
			[]string{"eth0", "ens4", "eth1"}, []string{"ens3", "ens4"}},
		{"ifupdown logical", files{"etc/network/interfaces": "allow-hotplug eth0=home\niface home inet dhcp\nauto /*/pci/eth0\niface usb0 inet dhcp\niface enx001122334455 inet dhcp\niface enp0s20u1 inet dhcp\niface lan0 inet dhcp\n"},
			[]string{"eth0"}, nil},
		{"networkd", files{"etc/systemd/network/a.network": "[Match]\nName=eth0\n[Network]\nDHCP=yes\n", "etc/systemd/network/b.network": "[Match]\nMACAddress=00:11:22:33:44:55\n[Network]\nVLAN=eth9\n"},
			[]string{"eth0"}, nil},
		{"networkd patterns", files{"etc/systemd/network/a.network": "[Match]\nName=en* eth*\n", "etc/systemd/network/b.network": "[Match]\nName=!eth0\n", "etc/systemd/network/c.network": "[Match]\nName=eth*\nName=wlan0\n"},
			nil, nil},
		{"networkd pattern", files{"etc/systemd/network/a.network": "[Match]\nName=eth*\n"}, []string{"eth*"}, nil},
		// An alternative name will do for networkd.
		{"networkd predictable", files{"etc/systemd/network/a.network": "[Match]\nName=enp0s3\n", "etc/systemd/network/b.network": "[Match]\nName=eno1\n"}, []string{"eno1"}, []string{"eno1"}},
		{"networkd netdev", files{"etc/systemd/network/a.netdev": "[NetDev]\nName=eth3\nKind=dummy\n", "etc/systemd/network/a.network": "[Match]\nName=eth3\n"}, nil, nil},
		{"networkd link by address", files{"etc/systemd/network/10-a.link": "[Match]\nMACAddress=00:11:22:33:44:55\n[Link]\nName=eth0\n", "etc/systemd/network/a.network": "[Match]\nName=eth0\n", "etc/network/interfaces": "iface enp9s0 inet dhcp"},
			[]string{"enp9s0"}, []string{"enp9s0"}},
		{"udev rule", files{"etc/udev/rules.d/70-persistent-net.rules": `SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="00:11:22:33:44:55", NAME="eth0"` + "\n" + `# SUBSYSTEM=="net", NAME="eth1"`, "etc/network/interfaces": "auto eth0 eth1"},
			[]string{"eth1"}, nil},
		{"udev rule unclear", files{"etc/udev/rules.d/70-x.rules": `SUBSYSTEM=="net", PROGRAM="/x", NAME="%c"`, "etc/network/interfaces": "auto eth0 enp9s0"}, nil, nil},
		{"NetworkManager", files{connections + "a.nmconnection": "[connection]\nid=Wired\ntype=ethernet\ninterface-name=eth0\n", connections + "b": "[connection]\ntype=802-3-ethernet\n[ethernet]\nmac-address=00:11:22:33:44:55\n"},
			[]string{"eth0"}, nil},
		{"NetworkManager others", files{connections + "br": "[connection]\ntype=bridge\ninterface-name=eth5\n", connections + "port": "[connection]\ntype=ethernet\ninterface-name=eth5\n", connections + "vlan": "[connection]\ntype=vlan\ninterface-name=eth1.5\n[vlan]\nparent=eth1\n"},
			[]string{"eth1"}, nil},
		{"NetworkManager match", files{connections + "a": "[connection]\ntype=ethernet\n[match]\ninterface-name=enp0s3;enp9s0;\n", connections + "b": "[connection]\ntype=wifi\ninterface-name=wlp9s0\n", connections + "c": "[match]\ninterface-name=!eth0;\n"},
			nil, []string{"enp0s3 enp9s0", "wlp9s0"}},
		{"netplan", files{"etc/netplan/50.yaml": "# c\nnetwork:\n  version: 2\n  ethernets:\n    eth0: # first\n      addresses:\n        - \"fe80::1/64\"\n        - 10.0.0.1/8\n    \"enp9s0\":\n      dhcp4: true\n  bridges:\n    eth7:\n      interfaces: [eth0]\n  wifis: {}\n"},
			[]string{"enp9s0", "eth0"}, []string{"enp9s0"}},
		{"netplan match", files{"etc/netplan/50.yaml": "network:\n  ethernets:\n    eth0:\n      match:\n        macaddress: \"00:11:22:33:44:55\"\n      set-name: eth0\n    eth1:\n      match: {driver: virtio_net}\n    nic:\n      match: {name: \"eth*\"}\n    other:\n      match:\n        name: en*\n", "etc/netplan/60.yaml": "network:\n ethernets:\n  eth1:\n   dhcp4: true\n"},
			[]string{"eth*"}, nil},
		{"ifcfg", files{scripts + "ifcfg-eth0": "TYPE=Ethernet\nNAME=\"eth4\"\nDEVICE=\"eth0\"\n", scripts + "ifcfg-eth1": "DEVICE=eth1\nHWADDR=00:11:22:33:44:55\n", scripts + "ifcfg-em1": "DEVICE=em1\n", scripts + "ifcfg-eth2.bak": "DEVICE=eth2\n"},
			[]string{"em1", "eth0"}, []string{"em1"}},
		{"ifcfg others", files{scripts + "ifcfg-br0": "TYPE=Bridge\nDEVICE=eth8\n", scripts + "ifcfg-x": "DEVICE=eth8\n", scripts + "ifcfg-vlan": "VLAN=yes\nDEVICE=eth0.7\n", scripts + "ifcfg-vlan9": "DEVICE=vlan9\nPHYSDEV=eth1\n", scripts + "ifcfg-eth3:1": "DEVICE=eth3:1\n"},
			[]string{"eth3:1", "eth0.7", "eth1"}, nil},
		{"not kept", files{"etc/network/interfaces.d/notkept": "auto eth0 enp9s0\n"}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, policy := range []struct {
				name string
				root files
				want []string
			}{{"predictable", debian12(), test.predictable}, {"kernel", kernelNames(), test.kernel}} {
				warnings, err := check(t, with(policy.root, test.files), qemu())
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, w := range warnings {
					got = append(got, w.Interface)
				}
				if diff := cmp.Diff(policy.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", policy.name, diff)
				}
			}
		})
	}
}

func TestNaming(t *testing.T) {
	const predictable = "predictable: net.ifnames is not 0"
	for _, test := range []struct {
		name  string
		files files
		less  []string
		want  string
	}{
		{"as installed", nil, nil, predictable},
		{"all entries", files{"boot/grub/grub.cfg": "linux /v root=/dev/sda1 net.ifnames=0\n linuxefi /v root=/dev/sda1 net.ifnames=0 recovery\n"}, nil, "kernel: net.ifnames=0"},
		{"last counts", files{"boot/grub/grub.cfg": "linux /v root=/dev/sda1 net.ifnames=0 net.ifnames=1\n"}, nil, predictable},
		{"entries differ", files{"boot/grub/grub.cfg": "linux /v root=/dev/sda1 net.ifnames=0\nlinux /v root=/dev/sda1\n"}, nil, "doubt"},
		{"GRUB's defaults", nil, []string{"boot/grub/grub.cfg"}, "kernel: net.ifnames=0"},
		{"grub2 variable", files{"boot/grub2/grub.cfg": "set opts='root=/dev/sda1 net.ifnames=0'\nlinux /v ${opts}\n"}, []string{"boot/grub/grub.cfg"}, "kernel: net.ifnames=0"},
		{"boot loader entry", files{"boot/grub2/grub.cfg": "blscfg\n", "boot/grub2/grubenv": "# GRUB Environment Block\nkernelopts=root=/dev/sda1 net.ifnames=0\n####", "boot/loader/entries/1.conf": "linux /v\noptions $kernelopts $tuned\n"}, []string{"boot/grub/grub.cfg"}, "kernel: net.ifnames=0"},
		{"kernel-install", files{"etc/kernel/cmdline": "root=x net.ifnames=0\n"}, []string{"boot/grub/grub.cfg", "etc/default/grub"}, "kernel: net.ifnames=0"},
		{"no boot configuration", nil, []string{"boot/grub/grub.cfg", "etc/default/grub"}, predictable},
		{"default.link masked", files{"etc/systemd/network/99-default.link": "-> /dev/null"}, nil, "kernel: 99-default.link is masked or missing"},
		{"default.link empty", files{"etc/systemd/network/99-default.link": ""}, nil, "kernel: 99-default.link is masked or missing"},
		{"rule masked", files{"etc/udev/rules.d/80-net-setup-link.rules": "-> ../../../dev/null"}, nil, "kernel: 80-net-setup-link.rules is masked or missing"},
		{"rule missing", nil, []string{"usr/lib/udev/rules.d/80-net-setup-link.rules"}, "kernel: 80-net-setup-link.rules is masked or missing"},
		{"RHEL 7", files{"usr/lib/udev/rules.d/80-net-name-slot.rules": "x", "usr/lib/systemd/network/99-default.link": "[Link]\nNamePolicy=kernel database onboard slot path\n"}, []string{"usr/lib/udev/rules.d/80-net-setup-link.rules"}, predictable},
		{"eudev that asks", files{"usr/lib/udev/rules.d/80-net-name-slot.rules": `ENV{net.ifnames}!="1", GOTO="end"`}, []string{"usr/lib/udev/rules.d/80-net-setup-link.rules"}, "kernel: net.ifnames is not 1"},
		{"Debian 8", files{"lib": "directory", "usr/lib/udev/rules.d/75-persistent-net-generator.rules": "x"}, nil, "kernel: 75-persistent-net-generator.rules"},
		{"no udev", nil, []string{"usr/bin/udevadm", "usr/lib/systemd/systemd-udevd"}, "kernel: it has no udev"},
		{"NixOS", files{"nix/store/x": ""}, []string{"usr/bin/udevadm", "usr/lib/systemd/systemd-udevd"}, "doubt"},
		{"other policy", files{"etc/systemd/network/10-all.link": "[Match]\nOriginalName=*\n[Link]\nNamePolicy=kernel\n"}, nil, "kernel: 99-default.link is masked or missing"},
		{"names by address", files{"etc/systemd/network/10-all.link": "[Match]\nType=ether\n[Link]\nNamePolicy=mac\n"}, nil, "doubt"},
		{"link of comments", files{"etc/systemd/network/10-x.link": "# [Match]\n"}, nil, predictable},
		{"link without a name", files{"etc/systemd/network/10-x.link": "[Match]\nMACAddress=00:11:22:33:44:55\n[Link]\nWakeOnLan=magic\n"}, nil, "doubt"},
		{"link for a driver", files{"usr/lib/systemd/network/98-virtio.link": "[Match]\nDriver=virtio_net\n[Link]\n"}, nil, "doubt"},
		{"drop-in", files{"etc/systemd/network/99-default.link.d/x.conf": "[Link]\nNamePolicy=\n"}, nil, "doubt"},
		{"unreadable rule", files{"etc/udev/rules.d/1.rules": "directory"}, nil, "doubt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := with(debian12(), test.files)
			for _, name := range test.less {
				delete(root, name)
			}
			if test.files["lib"] == "directory" {
				delete(root, "lib")
			}
			r, err := os.OpenRoot(tree(t, root))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			by := (&system{root: r}).naming()
			got := "kernel: " + by.why
			if by.predictable {
				got = "predictable: " + by.why
			}
			if by.doubt {
				got = "doubt"
			}
			if got != test.want {
				t.Errorf("naming = %q; want %q", got, test.want)
			}
		})
	}
}

func TestMachines(t *testing.T) {
	const many = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00"
	server := files{
		"devices/pci0000:00/0000:00:1c.0/0000:02:00.0/class":      "0x020000\n",
		"devices/pci0000:00/0000:00:1c.0/0000:02:00.0/config":     many,
		"devices/pci0000:00/0000:00:1c.0/0000:02:00.0/acpi_index": "1\n",
		"devices/pci0000:00/0000:00:1c.0/0000:02:00.1/class":      "0x020000\n",
		"devices/pci0000:00/0000:00:1c.0/0000:02:00.1/index":      "16777736\n",
		"bus/pci/devices/0000:02:00.0":                            "-> ../../../devices/pci0000:00/0000:00:1c.0/0000:02:00.0",
		"bus/pci/devices/0000:02:00.1":                            "-> ../../../devices/pci0000:00/0000:00:1c.0/0000:02:00.1",
		"bus/pci/devices/10000:e1:0a.0/class":                     "0x028000\n",
		"bus/pci/slots/7/address":                                 "0000:00:1c\n",
		"bus/pci/slots/7-1/address":                               "0000:02:00\n",
	}
	for _, test := range []struct {
		name string
		sys  files
		root files
		use  string // names for ifupdown
		want []string
	}{
		{"server", server, debian12(), "eno1 eno1np0 eno1d1 ens7f0 ens7f1np1 enp2s0f0 enp2s0f1 wlP65536p225s10 eno2 eno16777736 enp2s0 enp2s0f2 ens8 eno1x wlp3s0 wlan0 eth0", []string{
			"eno2: no card of this machine gets that name: this machine's cards will be eno1 or ens7f0 or enp2s0f0, ens7f1 or enp2s0f1",
			"eno16777736: no card of this machine gets that name: this machine's cards will be eno1 or ens7f0 or enp2s0f0, ens7f1 or enp2s0f1",
			"enp2s0: no card of this machine gets that name: this machine's cards will be eno1 or ens7f0 or enp2s0f0, ens7f1 or enp2s0f1",
			"enp2s0f2: no card of this machine gets that name: this machine's cards will be eno1 or ens7f0 or enp2s0f0, ens7f1 or enp2s0f1",
			"ens8: no card of this machine gets that name: this machine's cards will be eno1 or ens7f0 or enp2s0f0, ens7f1 or enp2s0f1",
			"wlp3s0: no card of this machine gets that name: this machine's card will be wlP65536p225s10 or wlP65536p225s10f0",
			"wlan0: the new system gives predictable names (net.ifnames is not 0): this machine's card will be wlP65536p225s10 or wlP65536p225s10f0",
			"eth0: the new system gives predictable names (net.ifnames is not 0): this machine's cards will be eno1 or ens7f0 or enp2s0f0, ens7f1 or enp2s0f1"}},
		{"server, kernel names", server, kernelNames(), "eno1 wlp3s0 em1 eth0 eth7 wlan1", []string{
			"eno1: the new system keeps the kernel's names (net.ifnames=0): this machine's cards will be eth0, eth1",
			"wlp3s0: the new system keeps the kernel's names (net.ifnames=0): this machine's card will be wlan0",
			"em1: the new system has no biosdevname, which gives such names: this machine's cards will be eth0, eth1"}},
		{"biosdevname", server, with(debian12(), files{"usr/sbin/biosdevname": "ELF"}), "em1 p3p1_0 eth0", []string{
			"eth0: the new system gives predictable names (net.ifnames is not 0)"}},
		{"no cards seen", nil, debian12(), "eth0 enp9s0 eno1 ens3 wlan0", []string{
			"eth0: the new system gives predictable names (net.ifnames is not 0)"}},
		{"no slots seen", files{"bus/pci/devices/0000:00:03.0/class": "0x020000", "bus/pci/devices/0000:00:04.0": "-> gone"}, debian12(), "ens3 enp0s3 enp0s3f0 enp0s4", []string{
			"enp0s4: no card of this machine gets that name: this machine's card will be enp0s3 or enp0s3f0"}},
		{"ACPI slot", with(qemu(), files{"bus/pci/devices/0000:00:03.0/firmware_node/sun": "12\n"}), debian12(), "ens12 ens13", []string{
			"ens13: no card of this machine gets that name: this machine's card will be ens3 or ens12 or enp0s3"}},
		{"Hyper-V", files{"class/dmi/id/product_name": "Virtual Machine\n"}, debian12(), "eth0", nil},
		{"Hyper-V with its bus", files{"bus/vmbus/devices/x/id": ""}, debian12(), "eth0", nil},
		{"Xen", files{"hypervisor/type": "xen\n"}, debian12(), "eth0", nil},
		{"virtio without PCI", files{"bus/platform/devices/LNRO0005:00/x": ""}, debian12(), "eth0", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := check(t, with(test.root, files{"etc/network/interfaces": "auto " + test.use}), test.sys)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range warnings {
				got = append(got, strings.TrimPrefix(w.Why, "/etc/network/interfaces names "))
			}
			for i, w := range test.want {
				test.want[i] = strings.Replace(w, ": ", ", but ", 1)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHostileFiles(t *testing.T) {
	for _, test := range []struct {
		name  string
		files files
		want  string // in the error; "" for none
	}{
		{"link out of the root", files{"etc/network/interfaces": "-> ../../../../../../etc/hostname"}, ""},
		{"absolute link", files{"etc/network/interfaces": "-> /data/interfaces", "data/interfaces": "auto eth3"}, ""},
		{"dangling link", files{"etc/network/interfaces": "-> /gone"}, ""},
		{"link to itself", files{"etc/network/interfaces": "-> interfaces"}, "too many levels of symbolic links"},
		{"directory", files{"etc/network/interfaces": "directory"}, "read /etc/network/interfaces of the new system: not a regular file"},
		{"large", files{"etc/network/interfaces": strings.Repeat("#", maxFile+1)}, "more than 1048576"},
		{"a file for a folder", files{"etc/network": "x"}, ""},
		{"control characters", files{"etc/network/interfaces": "auto eth\x1b[2J0 eth*\x00 " + strings.Repeat("e", 99)}, ""},
		{"variables", files{"boot/grub/grub.cfg": "a=" + strings.Repeat("x", 5000) + "\nset b=" + strings.Repeat("y", 4000) + "\n" +
			strings.Repeat("linux root= "+strings.Repeat("$b", 2000)+"\n", 200)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The other file is looked at, whatever the first is.
			root := with(with(debian12(), files{"etc/netplan/a.yaml": "network:\n  ethernets:\n    eth0: {}\n"}), test.files)
			warnings, err := check(t, root, qemu())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v; want %q", err, test.want)
			}
			want := "eth0"
			if test.files["data/interfaces"] != "" {
				want = "eth3 eth0"
			}
			var got []string
			for _, w := range warnings {
				got = append(got, w.Interface)
			}
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
