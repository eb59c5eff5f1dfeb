package kmod

// Provides tells whether the initrd's kernel has a module, or what a modalias asks
// for: as a module in the initrd, or as a part of the kernel that was wanted.
func (x *Index) Provides(name string) bool {
	x.prepare()
	return x.byName[normalize(name)] != nil || len(x.lookup.match(name)) > 0 || x.isBuiltIn(name)
}
