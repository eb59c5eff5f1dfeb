package delivery

import (
	"strings"

	"reimager/config"
)

// Unit returns the systemd unit that delivers a record. Type=simple and no option
// later than systemd 219 is relied on; what an older one does not know it ignores
// with a warning.
func Unit(program string, to config.Delivery) string {
	network := ""
	if to.URL != "" || len(to.Command) > 0 {
		network = "Wants=network-online.target\nAfter=network-online.target\n"
	}
	return strings.NewReplacer("@PROGRAM@", program, "@NETWORK@", network).Replace(unit)
}

// The notes need /var/lib/reimager, and what leads to the record lies there. The log's own
// mount is not required: a dependency that fails ends the unit for good (systemd.unit(5),
// Requires=), while the program looks again until the record is there.
//
// The command of an operator may be a 32-bit program. It may do anything that root may but gain what root does not
// have; it decides itself how much further it is confined.
const unit = `# Left by reimager: delivers the record of the last run, once.
[Unit]
Description=Deliver the record of the last reimage
ConditionPathExists=/` + SettingsPath + `
RequiresMountsFor=/var/lib/reimager
@NETWORK@
[Service]
Type=simple
ExecStart=@PROGRAM@ report --wait
Restart=on-failure
RestartSec=60
UMask=0077
Nice=10
NoNewPrivileges=yes
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
`
