package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// Vars are the values of config.Variables. A name without one is not in it.
type Vars map[string]string

// ReadVars reads from the system in dir what it says of itself, and takes the UUIDs
// of the filesystems that hold the new and the old root; "" has no value. The errors
// are of files that are there but say nothing usable; the other values are returned.
func ReadVars(dir, rootUUID, oldRootUUID string) (Vars, error) {
	vars := Vars{}
	for name, value := range map[string]string{"root_uuid": rootUUID, "old_root_uuid": oldRootUUID} {
		if value != "" {
			vars[name] = value
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return vars, fmt.Errorf("open root %s: %w", dir, err)
	}
	defer root.Close()
	var all []error
	for _, v := range []struct{ name, file, form string }{
		{"hostname", "/etc/hostname", `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`}, // hostname(5), HOST_NAME_MAX
		{"machine_id", "/etc/machine-id", `^[0-9a-f]{32}$`},                // machine-id(5)
	} {
		value, err := firstLine(root, v.file)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && (value == "" || value == "uninitialized"):
			// An image is shipped without a machine id, or with this word in its place.
		case err != nil:
			all = append(all, fmt.Errorf("read %s: %w", v.file, err))
		case !regexp.MustCompile(v.form).MatchString(value):
			all = append(all, fmt.Errorf("read %s: its first line is no %s", v.file, v.name))
		default:
			vars[v.name] = value
		}
	}
	return vars, errors.Join(all...)
}

// firstLine returns the first line that is neither empty nor a comment.
func firstLine(root *os.Root, name string) (string, error) {
	f, _, err := openText(root, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := readText(f)
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(string(content)) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			return l, nil
		}
	}
	return "", nil
}
