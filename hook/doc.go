// Package hook changes a new system while it is mounted and still held: it
// replaces lines of its files (Rewrite) and runs its programs in it (Run), so that
// neither can do harm to anything but the new system's own filesystems.
//
// A program runs as a child of this same binary, started again under ChildName:
// the child is the init of a PID namespace of its own, makes the program's view of
// the machine, gives up what the program must not have, and ends when the program
// does; with it the kernel ends whatever the program has left running.
package hook
