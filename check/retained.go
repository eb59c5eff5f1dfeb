package check

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"reimager/disk"
	"reimager/image"
	"reimager/retain"
	"reimager/stages"
)

// scan finds what the list keeps of the old system, and judges it. The plan is nil if
// it cannot be known, or nothing is kept.
func scan(ctx context.Context, root string, r *Release) (*retain.Plan, Result) {
	list, keep := r.Baked.List, r.Baked.Config.Retain
	if list.Empty() {
		return nil, pass(Retained, "the list keeps nothing")
	}
	plan, err := retain.Scan(ctx, root, list)
	var missing *retain.MissingError
	if err != nil && !errors.As(err, &missing) {
		return nil, failed(Retained, err)
	}
	if missing != nil {
		result := failed(Retained, err)
		if keep.Missing == "report" {
			result.Verdict = Warn
		}
		return plan, result
	}
	found := fmt.Sprintf("%s, %s", plural(len(plan.Entries), "file or directory", "files and directories"), disk.Size(plan.ContentBytes))
	if len(plan.Surprises) > 0 {
		var all []string
		for _, s := range plan.Surprises {
			all = append(all, fmt.Sprintf("%s %s", s.Path, s.Why))
		}
		return plan, warn(Retained, "`reimager retained` shows all of it", "%s; %s", found, several(all))
	}
	return plan, pass(Retained, "%s", found)
}

func judgeSpace(plan *retain.Plan, m *image.Manifest) Result {
	switch {
	case plan == nil:
		return pass(Space, "none is needed")
	case m == nil || m.System == nil:
		return warn(Space, "pack it with imagebuild pack, which looks", "the image does not say how much room its filesystems have for %s", disk.Size(plan.ContentBytes))
	}
	if err := stages.CheckSpace(plan, m); err != nil {
		return failed(Space, err)
	}
	return pass(Space, "the new filesystems have room for %s", disk.Size(plan.ContentBytes))
}

// ownerNames are the names that own something in a plan.
func ownerNames(plan *retain.Plan, accounts retain.Accounts) (users, groups []string) {
	for _, e := range plan.Entries {
		if name := accounts.UserName(e.UID); name != "" && !slices.Contains(users, name) {
			users = append(users, name)
		}
		if name := accounts.GroupName(e.GID); name != "" && !slices.Contains(groups, name) {
			groups = append(groups, name)
		}
	}
	slices.Sort(users)
	slices.Sort(groups)
	return users, groups
}

// judgeOwners warns of files whose owner the new system does not know: they keep a
// number that may be somebody else's there.
func judgeOwners(r *Release, users, groups []string) Result {
	switch s := r.system(); {
	case r.Baked.Config.Retain.Owners == "id":
		return pass(Owners, "files keep their numbers")
	case r.Baked.List.Accounts:
		return pass(Owners, "the accounts are merged into the new system's")
	case s == nil || s.Users == nil || s.Groups == nil:
		return warn(Owners, "pack it with imagebuild pack, which looks", "the image does not say whom it knows; kept files belong to %s", several(users))
	default:
		var unknown []string
		for _, u := range users {
			if _, ok := s.Users[u]; !ok {
				unknown = append(unknown, "user "+u)
			}
		}
		for _, g := range groups {
			if _, ok := s.Groups[g]; !ok {
				unknown = append(unknown, "group "+g)
			}
		}
		if len(unknown) > 0 {
			return warn(Owners, "add them to the image, or @accounts to the retention list", "the new system does not know %s: their files keep the old number", several(unknown))
		}
		return pass(Owners, "the new system knows all of %s and %s", plural(len(users), "user", "users"), plural(len(groups), "group", "groups"))
	}
}

// system is what the release says of the new system; nil if nothing.
func (r *Release) system() *image.SystemFacts {
	if r.Manifest == nil {
		return nil
	}
	return r.Manifest.System
}

// kept is a retained path and its type, as the manifest names types.
type kept struct{ path, kind string }

func keptPaths(plan *retain.Plan) []kept {
	var all []kept
	for _, e := range plan.Entries {
		all = append(all, kept{string(e.Path), kindOf(e.Type)})
	}
	return all
}

func kindOf(t retain.Type) string {
	switch t {
	case retain.TypeCharDevice, retain.TypeBlockDevice:
		return "device"
	}
	return string(t)
}

// judgeConflicts finds what cannot be put back, by the rules of package retain: a
// directory with content is not replaced by something else, and what lies above has to
// be a directory, or a link to one.
func judgeConflicts(all []kept, there map[string]string) Result {
	if there == nil {
		return warn(Conflicts, "pack it with imagebuild pack, which looks", "the image does not say what files it has")
	}
	filled := map[string]bool{} // directories with content
	for p := range there {
		filled[path.Dir(p)] = true
	}
	mine := map[string]string{}
	for _, k := range all {
		mine[k.path] = k.kind
	}
	var bad, odd []string
	for _, k := range all {
		is := there[k.path]
		switch {
		case is == "directory" && k.kind != "directory" && filled[k.path]:
			bad = append(bad, fmt.Sprintf("%s is a %s here and a directory with content there", k.path, k.kind))
		case k.kind == "directory" && is != "" && is != "directory" && is != "symlink", is == "directory" && k.kind != "directory":
			odd = append(odd, fmt.Sprintf("%s, there a %s, becomes a %s", k.path, is, k.kind))
		}
		for up := path.Dir(k.path); up != "/"; up = path.Dir(up) {
			if kind := there[up]; kind != "" && kind != "directory" && kind != "symlink" && mine[up] == "" {
				bad = append(bad, fmt.Sprintf("%s cannot lie below %s, which is a %s there", k.path, up, kind))
				break
			}
		}
	}
	switch {
	case len(bad) > 0:
		return fail(Conflicts, "leave it out of the retention list, or change the image; --force conflicts goes without it", "%s", strings.Join(bad, "; "))
	case len(odd) > 0:
		return warn(Conflicts, "", "%s", several(odd))
	}
	return pass(Conflicts, "nothing kept stands against what the image has in /etc")
}
