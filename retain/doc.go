// Package retain keeps files of a machine across the replacement of its system:
// a retention list names them (ParseList), Scan finds them beneath the old root,
// Capture writes them to one PAX tar, Restore puts them back beneath the new
// root with owners as the new system numbers them, and Verify reads everything
// back and compares.
//
// The archive is one that GNU tar, libarchive and archive/tar read: see Capture for
// what goes beyond POSIX.1.
//
// Both roots are walked beneath (type Root): no symbolic link, and no name in a
// hostile archive, leads out of them. Extended attributes of what can't be
// opened (symbolic links, FIFOs, devices) are reached through /proc/self/fd, so
// /proc has to be mounted. Linux only.
package retain
