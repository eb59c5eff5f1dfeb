package retain

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/accounts"
	"reimager/report"
)

// accountsName is the attachment that has the accounts of the old system. They hold
// password hashes.
const accountsName = "accounts"

// maxAttachment bounds what is taken into memory of an archive that may be hostile.
const maxAttachment = 64 << 20

// attachAccounts reads the accounts of the old root, for a list that merges them.
func (p *Plan) attachAccounts() error {
	root, err := os.OpenRoot(p.Root)
	if err != nil {
		return fmt.Errorf("read accounts: %w", err)
	}
	defer root.Close()
	set, err := accounts.Read(root)
	if err == nil {
		err = checkShadow(root)
	}
	if err != nil {
		return err
	}
	blob, err := set.Encode()
	if err != nil {
		return fmt.Errorf("read accounts of %s: %w", p.Root, err)
	}
	p.Attach(accountsName, blob)
	return nil
}

// checkShadow refuses an old root whose passwords are where nobody can read them, on a
// filesystem that is not mounted perhaps: its people would come back locked out.
func checkShadow(root *os.Root) error {
	passwd, err := root.ReadFile("etc/passwd")
	if err != nil {
		return fmt.Errorf("read accounts: %w", err)
	}
	for line := range strings.Lines(string(passwd)) {
		if fields := strings.Split(line, ":"); len(fields) < 2 || fields[1] != "x" {
			continue
		}
		if _, err := root.Stat("etc/shadow"); err != nil {
			return report.Hint(fmt.Errorf("read accounts: the passwords are in /etc/shadow, which cannot be read: %w", err), "is it a link to a filesystem that is not in [old] mounts? or leave out %s", SetAccounts)
		}
		return nil
	}
	return nil
}

// CheckOwners refuses to keep numbers and to merge accounts at once: an account whose
// number is taken moves, and its files would not.
func (l List) CheckOwners(rule OwnerRule) error {
	if l.Accounts && rule == ByID {
		return report.Hint(fmt.Errorf("%s moves accounts whose number is taken, and owners are to keep their numbers", SetAccounts), "leave out one of the two: owners by name follow their accounts")
	}
	return nil
}

// attachment hands an attachment to whom it is for.
func (r *reader) attachment(h *header) error {
	if r.onAttachment == nil || h.flag != flagFile {
		return nil
	}
	if h.stored > maxAttachment {
		return fmt.Errorf("%s has %d bytes, expected at most %d", h.name, h.stored, maxAttachment)
	}
	rel, err := beneath(h.name)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return r.onAttachment(rel[len(attachmentDir)+1:], data)
}

// merged merges the accounts of an archive with those beneath a root.
func merged(dir string, data []byte, use func(*os.Root, *accounts.Merged) error) (*accounts.Report, error) {
	old, err := accounts.Decode(data)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	set, err := accounts.Read(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	m, told := accounts.Merge(old, set, accounts.Options{})
	return &told, errors.Join(use(root, m), root.Close())
}

// mergeAccounts adds the old system's accounts to the new one's, before any file is
// put back, so that files find their owners.
func (r *restorer) mergeAccounts(name string, data []byte) error {
	if name != accountsName {
		return nil
	}
	if r.owners.rule == ByID {
		return List{Accounts: true}.CheckOwners(ByID)
	}
	unlockAccounts(r.root)
	told, err := merged(r.root.dir, data, accounts.Apply)
	if err != nil {
		// The new system's own accounts work, and would be as they are at each attempt.
		r.accountsConflict = err.Error()
	}
	r.accountsReport = told
	r.owners.accounts, err = readAccounts(r.root)
	return err
}

// unlockAccounts takes the flags from account files that keep them from being
// replaced, as with any file that gives way. What goes wrong shows when they are.
func unlockAccounts(root *Root) {
	for _, rel := range accountFiles() {
		fd, err := root.open(rel, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			continue
		}
		if _, all, err := getFlags(fd); err == nil && all&(flagImmutable|flagAppend) != 0 {
			_ = setFlags(fd, all&^(flagImmutable|flagAppend))
		}
		unix.Close(fd)
	}
}

// compareAccounts tells whether the accounts are merged: merging again changes nothing.
func (v *verifier) compareAccounts(name string, data []byte) error {
	if name != accountsName {
		return nil
	}
	_, err := merged(v.root.dir, data, func(_ *os.Root, m *accounts.Merged) error {
		for _, file := range m.Changed() {
			what := "accounts"
			if strings.HasSuffix(file, "subuid") || strings.HasSuffix(file, "subgid") {
				what = "subordinate ranges"
			}
			v.found = append(v.found, Difference{SetAccounts, what, "merged", "/" + strings.TrimPrefix(file, "/") + " is not, or was changed since"})
		}
		return nil
	})
	if err != nil {
		v.found = append(v.found, Difference{SetAccounts, "accounts", "merged", err.Error()})
	}
	return nil
}
