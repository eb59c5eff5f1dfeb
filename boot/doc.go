// Package boot is how a machine gets to the reimager's initrd once, and back:
// GRUB's menu and environment, a filesystem settled so that GRUB sees what was
// written, the code that holds a half-written disk, the GRUB that a lifeboat boots by,
// and the reboot.
//
// Nothing here decides whether to do any of it. Everything that touches GRUB's
// files takes the root directory they are under, "/" on a running machine.
package boot
