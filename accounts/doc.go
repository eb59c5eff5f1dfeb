// Package accounts merges the people and services of an old system into the
// account files of a new one: passwd(5), group(5), shadow(5), gshadow(5),
// subuid(5) and subgid(5). Merge is pure; Read, Apply and Verify touch a root,
// and never what is outside it.
//
// # Rules
//
// Names decide, numbers follow. The new system's lines keep their order and
// their bytes but for what is said here; added lines stand behind them, before
// the first line of NIS compatibility ("+", "-"), since libc ends there.
//
// An account of both systems keeps the new system's number, primary group,
// home, shell and comment. Its password and its ageing fields are the old
// system's for root, and for people: accounts whose number in the new system is
// UID_MIN to UID_MAX of its login.defs. A lock counts as a password: what was
// locked stays locked. An empty password does not: it opens nothing that the
// new system has closed. Where the old system has no readable password (an "x"
// without a line in shadow), the new system's stands. Services of the new system
// (all other accounts) keep its password, so that none can log in that could not.
//
// An account of the old system alone is added as it was, with its password,
// empty or locked ones too ("!" if there is no readable one). So is a group.
// Each keeps its number where that is free: used by no line of the new system,
// for a group neither as somebody's primary group, and in no range of
// subordinate numbers. Otherwise it gets the next number that neither system
// uses for anything: people (from UID_MIN of the old login.defs, but for the
// overflow numbers 65534 and 65535) the first from the new UID_MIN up, services
// the first from SYS_UID_MAX down; when those are used up, one that is free in
// the new system; when there is none, the account is left out and reported. A
// user and the private group of the same name stay together when both move.
//
// Names that share a number in the old system are one owner to the kernel, and
// go on sharing it, if the first of them is added or, in the new system, within
// UID_MIN to UID_MAX and alone with its number. None joins root or a service of the new
// system: a second name for number 0 gets a number of its own and is root no longer.
//
// A membership of the old system is kept if the group exists afterwards and the
// member is added or one of the people. Memberships of root and of the new
// system's services are the new system's. People of both systems whose primary
// group differs become members of the old one. A primary group that has no line
// in the old system stays a number without a line, and moves if it belongs to
// somebody now. Administrators in gshadow follow the same rule; passwords of
// groups are kept for added groups alone.
//
// Ranges of subordinate numbers are kept for added accounts, and for root and
// people that have none in the new system. One that overlaps a range or the
// number of an account moves behind all others. What containers left within it
// keeps its numbers: see the report.
//
// Passwords never go to passwd, which everybody may read: a missing shadow is
// made, mode 0600. A missing gshadow is not made. A missing subuid or subgid is
// made, mode 0644, if there is something to put there.
//
// Odd lines (comments, NIS, a wrong number of fields, names twice) stay in the
// new system's files as they are. Their numbers count as used, and so does the
// name if libc would find it. In the old system's they are reported, with the
// number of the line and never with its text, and not merged, but for two that
// mean something to libc: a carriage return at the end is dropped, and a second
// line of a group with the same number adds its members.
//
// A line of shadow or gshadow that cannot be read, or that belongs to nobody, gives
// way to one of the old system for the same name.
//
// Whatever about an account or group of the old system is not afterwards as it
// was is in the Report, which holds no password and no hash.
//
// Merging again changes nothing. Apply writes passwd last, and a merge that
// was interrupted between two files ends, when it is repeated, with the same files.
package accounts
