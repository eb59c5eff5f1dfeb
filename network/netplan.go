package network

import (
	"maps"
	"slices"
	"strings"
)

// netplan reads netplan(5). An id without match is the name of an interface; one with
// match is any word. What several files say of an id is merged.
func (f *findings) netplan(text string) {
	kinds := parseYAML(text).child("network").keys
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		devices := kinds[kind].keys
		for _, id := range slices.Sorted(maps.Keys(devices)) {
			device := devices[id]
			rename, name := device.child("set-name").scalar, device.child("match").child("name").scalar
			f.defined[rename] = true
			switch {
			case kind != "ethernets" && kind != "wifis":
				f.defined[id] = true
			case device.keys["match"] == nil:
				f.use(id)
			case rename == "" && name != "":
				f.use(name)
			}
			if device.keys["match"] != nil && name != id {
				f.defined[id] = true
			}
		}
	}
}

// yaml is a mapping or a scalar.
type yaml struct {
	scalar string
	keys   map[string]*yaml
}

// child returns the value of a key, an empty one if there is none.
func (y *yaml) child(key string) *yaml {
	if y.keys[key] == nil {
		return &yaml{}
	}
	return y.keys[key]
}

func (y *yaml) put(key string, value *yaml) {
	if y.keys == nil {
		y.keys = map[string]*yaml{}
	}
	y.keys[strings.Trim(key, ` "'`)] = value
}

// parseYAML reads the part of YAML in which netplan's files are written: mappings by
// indentation, and simple ones in braces. All else, such as lists, is left out.
func parseYAML(text string) *yaml {
	type level struct {
		indent int
		node   *yaml
	}
	root := &yaml{}
	levels := []level{{-1, root}}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimRight(line, " \r\n"), " #")
		content := strings.TrimLeft(line, " ")
		key, value, ok := strings.Cut(content+" ", ": ") // a colon within a word belongs to it
		if !ok || content[0] == '-' || content[0] == '#' {
			continue
		}
		indent := len(line) - len(content)
		for levels[len(levels)-1].indent >= indent {
			levels = levels[:len(levels)-1]
		}
		node := parseScalar(strings.TrimSpace(value))
		levels[len(levels)-1].node.put(key, node)
		levels = append(levels, level{indent, node})
	}
	return root
}

func parseScalar(value string) *yaml {
	inner, ok := strings.CutPrefix(value, "{")
	if !ok {
		return &yaml{scalar: strings.Trim(value, `"'`)}
	}
	node := &yaml{}
	inner, _, _ = strings.Cut(inner, "}")
	for pair := range strings.SplitSeq(inner, ",") {
		if key, value, ok := strings.Cut(pair, ":"); ok && !strings.Contains(inner, "{") {
			node.put(key, &yaml{scalar: strings.Trim(value, ` "'`)})
		}
	}
	return node
}
