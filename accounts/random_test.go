package accounts

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// pair is a random old and new system.
type pair struct {
	old, new *Set
	hashes   []string // that must not be in a report
}

// generator makes systems whose names and numbers clash as much as can be. A tidy
// one has nothing that pwck and grpck would mind.
type generator struct {
	*rand.Rand
	tidy   bool
	hashes []string
}

func randomPair(seed uint64, tidy bool) pair {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 7)), tidy: tidy}
	p := pair{old: g.system(), new: g.system()}
	p.hashes = g.hashes
	return p
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) one(of ...string) string { return of[g.IntN(len(of))] }

// draw returns numbers for names, some of them twice if it is not tidy.
func (g *generator) draw(names []string, people bool) []int {
	used := map[int]bool{}
	ids := make([]int, len(names))
	for i := range ids {
		for {
			ids[i] = 990 + g.IntN(10)
			if people {
				ids[i] = 1000 + g.IntN(9)
			} else if !g.tidy && g.chance(5) {
				ids[i] = []int{0, 65534, 500, 70000, 100005, 300}[g.IntN(6)]
			}
			if !used[ids[i]] || !g.tidy && g.chance(10) {
				break
			}
		}
		used[ids[i]] = true
	}
	return ids
}

func (g *generator) some(names ...string) []string {
	var all []string
	for _, i := range g.Perm(len(names)) {
		if g.chance(70) {
			all = append(all, names[i])
		}
	}
	return all
}

func (g *generator) secret() string {
	if g.chance(15) {
		if g.tidy {
			return g.one("!", "*", "!!")
		}
		return g.one("!", "*", "!!", "")
	}
	hash := fmt.Sprintf("$6$salt%06d$%016x", g.IntN(1e6), g.Uint64())
	g.hashes = append(g.hashes, hash)
	if g.chance(10) {
		return "!" + hash
	}
	return hash
}

func (g *generator) system() *Set {
	services, people := g.some("svca", "svcb", "svcc", "svcd"), g.some("ann", "bob", "cyd", "dan")
	users := append(append([]string{"root"}, services...), people...)
	uids := append(append([]int{0}, g.draw(services, false)...), g.draw(people, true)...)
	groups := []string{"root"}
	gids := []int{0}
	named := func(names []string, people bool) {
		groups, gids = append(groups, names...), append(gids, g.draw(names, people)...)
	}
	named(append(g.some("wheel", "video", "disk"), services...), false)
	if g.tidy {
		named(people, true)
	} else {
		named(g.some(people...), true)
	}
	hasShadow, hasGshadow := g.tidy || g.chance(90), g.tidy || g.chance(80)

	s := new(Set)
	var b [kinds]strings.Builder
	for i, name := range users {
		gid := gids[g.IntN(len(gids))]
		for j := range groups {
			if groups[j] == name && g.chance(80) {
				gid = gids[j]
			}
		}
		if !g.tidy && g.chance(8) {
			gid = []int{1003, 991, 4444}[g.IntN(3)]
		}
		field, secret := "x", g.secret()
		if !g.tidy && g.chance(8) {
			field = g.secret()
		}
		fmt.Fprintf(&b[passwd], "%s:%s:%d:%d:%s:/:%s\n", name, field, uids[i], gid, g.one("", "Somebody"), g.one("/bin/sh", "/bin/sh", "/bin/bash"))
		if g.tidy || g.chance(93) {
			fmt.Fprintf(&b[shadow], "%s:%s:%d:0:99999:7:%s::\n", name, secret, 15000+g.IntN(1000), g.one("", "14"))
		}
		for _, k := range []kind{subuid, subgid} {
			for g.chance(30) {
				owner := name
				if !g.tidy && g.chance(15) {
					owner = fmt.Sprint(uids[i])
				}
				fmt.Fprintf(&b[k], "%s:%d:%d\n", owner, 100000+g.IntN(8)*65536, 65536)
			}
		}
		g.noise(&b)
	}
	for i, name := range groups {
		some := g.some(users...)
		members := strings.Join(some[:min(len(some), g.IntN(3))], ",")
		if !g.tidy && g.chance(8) {
			members = strings.TrimPrefix(members+",ldap", ",")
		}
		admins := ""
		if g.chance(20) {
			admins = g.one(users...)
		}
		field := "x"
		if !g.tidy && g.chance(5) || !hasGshadow {
			field = g.one("", "!", "x")
		}
		fmt.Fprintf(&b[group], "%s:%s:%d:%s\n", name, field, gids[i], members)
		if g.tidy || g.chance(93) {
			fmt.Fprintf(&b[gshadow], "%s:%s:%s:%s\n", name, g.one("!", "*", g.secret()), admins, members)
		}
		g.noise(&b)
	}
	if !g.tidy && g.chance(30) {
		b[passwd].WriteString("+::::::\n")
		b[group].WriteString("+:::\n")
	}
	for k := range kinds {
		present := true
		switch k {
		case shadow:
			present = hasShadow
		case gshadow:
			present = hasGshadow
		case subuid, subgid:
			present = b[k].Len() > 0 || g.chance(50)
		}
		if !present {
			continue
		}
		text := b[k].String()
		if !g.tidy && g.chance(10) {
			text = strings.TrimSuffix(text, "\n")
		}
		s.files[k] = content{true, text}
	}
	if g.chance(20) {
		s.defs, s.hasDefs = "UID_MIN 500\nGID_MIN 500\n", true
	}
	return s
}

// noise adds lines that are odd.
func (g *generator) noise(b *[kinds]strings.Builder) {
	if g.tidy || !g.chance(6) {
		return
	}
	k := kind(g.IntN(int(kinds)))
	hash := fmt.Sprintf("$6$odd%06d$%016x", g.IntN(1e6), g.Uint64())
	g.hashes = append(g.hashes, hash)
	b[k].WriteString(g.one("# a comment\n", "\n", "zed:"+hash+"\n", hash+"\n", "zed:x:1002\n", "9:9:9:9:9:9:9:9:9:9\n", "svca:x:1004:1004::/:/bin/sh\n", "ann:x:1001:ann\n", ":::\n", "a b:x:1:1:::\n"))
}
