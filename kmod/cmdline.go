package kmod

import "strings"

// ParamsFromCmdline returns the modules' parameters of a kernel command line, as
// finit_module(2) takes them, by normalized module name. It reads
// `MODULE.PARAM=VALUE` as libkmod does: quotes may enclose the value or the whole,
// a name with a second dot or with quotes in it is none. Reimager's own
// parameters, `reimager.…`, are left out.
func ParamsFromCmdline(cmdline string) map[string]string {
	params := map[string]string{}
	for _, word := range cmdlineWords(cmdline) {
		name, param, ok := moduleParam(word)
		if !ok || name == "reimager" || name == "modprobe" {
			continue
		}
		if params[name] != "" {
			param = params[name] + " " + param
		}
		params[name] = param
	}
	return params
}

// BlacklistFromCmdline returns the normalized names that modprobe.blacklist= and
// the kernel's own module_blacklist= list.
func BlacklistFromCmdline(cmdline string) []string {
	var names []string
	for _, word := range cmdlineWords(cmdline) {
		key, value, _ := strings.Cut(strings.ReplaceAll(word, `"`, ""), "=")
		switch normalize(key) {
		case "modprobe.blacklist", "module_blacklist":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					names = append(names, normalize(name))
				}
			}
		}
	}
	return unique(names)
}

// cmdlineWords splits at white space outside double quotes, which are kept
// (lib/cmdline.c, next_arg: there is no escaping).
func cmdlineWords(cmdline string) []string {
	quoted := false
	return strings.FieldsFunc(cmdline, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && strings.ContainsRune(" \t\n\v\f\r", r)
	})
}

// moduleParam takes MODULE.PARAM[=VALUE] apart; param is the rest after the dot.
func moduleParam(word string) (module, param string, ok bool) {
	whole := strings.HasPrefix(word, `"`)
	if whole {
		word = strings.TrimSuffix(word[1:], `"`)
	}
	key, value, hasValue := strings.Cut(word, "=")
	module, name, dotted := strings.Cut(key, ".")
	module = normalize(module)
	if !dotted || !validName(module) || name == "" || strings.ContainsAny(name, ". \t\n\v\f\r\"") {
		return "", "", false
	}
	switch {
	case !hasValue:
		return module, name, true
	case whole:
		// "ahci.x=a b" is for the module what x="a b" says; the kernel knows no quote within quotes.
		return module, name + `="` + strings.ReplaceAll(value, `"`, "") + `"`, true
	case strings.Count(value, `"`)%2 != 0:
		// The last word of a line whose quote is never closed.
		return module, name + "=" + value + `"`, true
	}
	return module, name + "=" + value, true
}
