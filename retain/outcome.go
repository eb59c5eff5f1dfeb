package retain

import "reimager/accounts"

// Report tells what Restore did, and all that it did not do.
type Report struct {
	Entries []Restored `json:"entries"`
	// Conflicts are entries that were not put back.
	Conflicts []Conflict `json:"conflicts,omitempty"`
	// CreatedParents are directories that neither the new system nor the
	// archive had; they belong to root with mode 0755.
	CreatedParents []Path     `json:"created_parents,omitempty"`
	Unmapped       []Unmapped `json:"unmapped,omitempty"`
	// Lost are attributes that the new filesystem did not take.
	Lost         []Lost `json:"lost,omitempty"`
	ContentBytes int64  `json:"content_bytes"`
	// Accounts is what became of each of the old system's, if they were merged.
	Accounts *accounts.Report `json:"accounts,omitempty"`
}

// Restored is what is told of one file that was put back.
type Restored struct {
	Record
	UID      uint32 `json:"new_uid"`
	GID      uint32 `json:"new_gid"`
	Replaced bool   `json:"replaced"` // something was there; a directory was merged
}

// Conflict is an entry that was not put back, and why.
type Conflict struct {
	Path Path   `json:"path"`
	Why  string `json:"why"`
}

// Unmapped is an owner that the new system does not know by name: files kept
// its number.
type Unmapped struct {
	Kind    string `json:"kind"` // "user" or "group"
	Name    string `json:"name"` // "" where the old system had none either
	ID      uint32 `json:"id"`
	TakenBy string `json:"taken_by,omitempty"` // whom the new system gave this number
	Files   int    `json:"files"`
}

// Lost is an attribute that could not be put back.
type Lost struct {
	Path      Path   `json:"path"`
	Attribute string `json:"attribute"` // "owner", "mode", "inode flag …" as libarchive names it, or the extended attribute's name
	Why       string `json:"why"`
}

// conflictError stops one entry and not the restore.
type conflictError string

func (c conflictError) Error() string { return string(c) }
