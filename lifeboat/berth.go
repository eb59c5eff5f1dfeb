// Package lifeboat is what makes a power cut harmless: kernel, initrd, image and retained
// files in a berth, a range of the disk that neither system needs, bootable on its own.
package lifeboat

// Berth is the range of the disk in which a lifeboat lies.
type Berth struct {
	Off   int64  `json:"off"` // both in bytes
	Bytes int64  `json:"bytes"`
	Where string `json:"where"` // "the inside of swap partition 3"
}

// What lies in a berth, in bytes. Header, journal and key slot are in the fixed part.
const (
	fixedBytes     = 64 << 10
	coreMost       = 128 << 10
	scriptMost     = 4 << 10
	sectionAlign   = 4 << 10
	alignedSection = 7 // kernel and initrd twice, image, archive, state
	// Overhead is the most that a berth takes beyond kernel and initrd, twice each, image,
	// archive and state.
	Overhead = fixedBytes + coreMost + scriptMost + alignedSection*sectionAlign
)
