package accounts

import (
	"regexp"
	"strconv"
	"strings"
)

// system is a Set as the checker sees it, which shares no code with the merge.
type system struct {
	users    map[string]user
	groups   map[string]groupOf
	order    []string // of users
	groupIDs map[int]string
	userIDs  map[int]string
	subs     [2][]sub
}

type user struct {
	uid, gid             int
	gecos, home, shell   string
	password, ageing     string
	readable             bool
	primary              string
	supplementary, admin map[string]bool
}

type groupOf struct {
	gid      int
	password string
}

type sub struct {
	owner       string
	start, size int
}

func rows(text string, width int) [][]string {
	good, letter := regexp.MustCompile(`^[a-z0-9]+$`), regexp.MustCompile(`[a-z]`)
	var all [][]string
	for _, raw := range strings.Split(text, "\n") {
		f := strings.Split(strings.TrimSuffix(raw, "\r"), ":")
		if len(f) == width && good.MatchString(f[0]) && (width == 3 || letter.MatchString(f[0])) {
			all = append(all, f)
		}
	}
	return all
}

func num(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

func see(s *Set) system {
	v := system{users: map[string]user{}, groups: map[string]groupOf{}, groupIDs: map[int]string{}, userIDs: map[int]string{}}
	find := func(k kind, width int, name string) []string {
		for _, f := range rows(s.files[k].text, width) {
			if f[0] == name {
				return f
			}
		}
		return nil
	}
	byUID := v.userIDs
	for _, f := range rows(s.files[passwd].text, 7) {
		if num(f[2]) < 0 || num(f[3]) < 0 {
			continue
		}
		if byUID[num(f[2])] == "" {
			byUID[num(f[2])] = f[0]
		}
		if _, twice := v.users[f[0]]; twice {
			continue
		}
		u := user{uid: num(f[2]), gid: num(f[3]), gecos: f[4], home: f[5], shell: f[6], password: f[1], readable: true,
			supplementary: map[string]bool{}, admin: map[string]bool{}}
		if f[1] == "x" {
			u.password, u.readable = "", false
			if h := find(shadow, 9, f[0]); h != nil {
				u.password, u.ageing, u.readable = h[1], strings.Join(h[2:], ":"), true
			}
		} else {
			u.ageing = "::::::"
		}
		v.users[f[0]] = u
		v.order = append(v.order, f[0])
	}
	for _, f := range rows(s.files[group].text, 4) {
		first, twice := v.groups[f[0]]
		if num(f[2]) >= 0 && v.groupIDs[num(f[2])] == "" {
			v.groupIDs[num(f[2])] = f[0]
		}
		if num(f[2]) < 0 || twice && first.gid != num(f[2]) {
			continue
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if u, ok := v.users[m]; ok {
				u.supplementary[f[0]] = true
			}
		}
		if twice {
			continue
		}
		g := groupOf{num(f[2]), f[1]}
		h := find(gshadow, 4, f[0])
		if f[1] == "x" {
			g.password = "!"
			if h != nil {
				g.password = h[1]
			}
		}
		v.groups[f[0]] = g
		if h != nil {
			for m := range strings.SplitSeq(h[2], ",") {
				if u, ok := v.users[m]; ok {
					u.admin[f[0]] = true
				}
			}
		}
	}
	for name, u := range v.users {
		u.primary = v.groupIDs[u.gid]
		v.users[name] = u
	}
	for i, k := range []kind{subuid, subgid} {
		for _, f := range rows(s.files[k].text, 3) {
			r := sub{f[0], num(f[1]), num(f[2])}
			if id, err := strconv.Atoi(f[0]); err == nil {
				r.owner = byUID[id]
			}
			if r.start >= 0 && r.size > 0 {
				v.subs[i] = append(v.subs[i], r)
			}
		}
	}
	return v
}
