package access

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// ID identifies an account by a directory and a name in it. Different people may
// have the same name in two directories, so names are never compared without
// their directory.
type ID struct{ directory, name string }

// String returns the account as it is written in the configuration:
// DIRECTORY:NAME, or token:ID for the access token of a group.
func (id ID) String() string {
	if id.directory == TokensDirectory {
		return id.name // begins with "token:"
	}
	return id.directory + ":" + id.name
}

// Account returns the account that an entry of an option names: DIRECTORY:NAME,
// token:ID, or a bare name. A bare name is that of a `user` line, or belongs to
// the only directory of the site. The error begins with the option and the entry,
// and says what to write.
func (l Directories) Account(option, entry string) (ID, error) {
	if err := l.checkFormer(option, entry); err != nil {
		return ID{}, err
	}
	directory, name, qualified := strings.Cut(entry, ":")
	switch {
	case !qualified && entry != "":
		return l.bare(option, entry)
	case entry == "" || name == "":
		return ID{}, fmt.Errorf("%s '%s': missing account name; write DIRECTORY:NAME", option, entry)
	case directory+":" == tokenName && accesstoken.IsID(name):
		return ID{TokensDirectory, entry}, nil
	case l.has(directory):
		return ID{directory, name}, nil
	}
	return ID{}, fmt.Errorf("%s %s: unknown directory '%s'%s", option, entry, directory, l.suggest(option, entry, name))
}

// checkFormer rejects an entry that names an account of an oidc directory as
// earlier versions did, with the issuer before the name. It must not be taken for
// the name of another account.
func (l Directories) checkFormer(option, entry string) error {
	for _, d := range l {
		if name, ok := strings.CutPrefix(entry, directory.FormerPrefix(d.issuer)); ok && d.kind == "oidc" && name != "" {
			return fmt.Errorf("%s %s: names of accounts from ID tokens no longer begin with the issuer; write `%s %s:%s`", option, entry, option, d.Name, name)
		}
	}
	return nil
}

func (l Directories) bare(option, name string) (ID, error) {
	var listing Directories
	for _, d := range l {
		if slices.Contains(d.users, name) {
			listing = append(listing, d)
		}
	}
	switch {
	case len(listing) == 1:
		return ID{listing[0].Name, name}, nil
	case len(l) == 1:
		return ID{l[0].Name, name}, nil
	case len(l) == 0:
		return ID{}, fmt.Errorf("%s %s: no accounts are configured; write `user %s HASH` beside the groups, with a hash from `caddy hash-password`", option, name, name)
	case len(listing) == 0:
		listing = l
	}
	return ID{}, fmt.Errorf("%s %s: ambiguous, because the site has several directories%s", option, name, listing.suggest(option, name, name))
}

// suggest returns "; write " and a line for each directory that would name the
// account, or "" if there is no directory. Directories whose names contain no
// colon are suggested with the name, others with the whole entry.
func (l Directories) suggest(option, entry, name string) string {
	var lines []string
	for _, d := range l {
		as := entry
		if d.kind == "static" || d.kind == "ldap" || d.kind == "gitlab" {
			as = name
		}
		lines = append(lines, fmt.Sprintf("`%s %s:%s`", option, d.Name, as))
	}
	if lines == nil {
		return ""
	}
	return "; write " + strings.Join(lines, " or ")
}

// Blocked returns the accounts that an entry of `blocked` names: DIRECTORY:NAME
// as in [Directories.Account], or a bare name, which means that name in every
// directory. The name of the result is folded, and its directory is empty for a
// bare name.
func (l Directories) Blocked(option, entry string) (ID, error) {
	if entry != "" && !strings.Contains(entry, ":") {
		return ID{name: foldName(entry)}, l.checkFormer(option, entry)
	}
	id, err := l.Account(option, entry)
	return ID{id.directory, foldName(id.name)}, err
}

// MemberDirectory returns the directory that an entry of `members_from` names,
// as an ID without an account name. The error says what to write if there is no
// such directory or it has no groups of its own.
func (l Directories) MemberDirectory(option, entry string) (ID, error) {
	for _, d := range l {
		if d.Name != entry {
			continue
		}
		switch d.kind {
		case "static":
			return ID{}, fmt.Errorf("%s %s: the directory has no groups; write `members %s:NAME...`", option, entry, entry)
		case "ldap", "oidc":
			return ID{}, fmt.Errorf("%s %s: the directory only has the groups of its `map` lines, which need no members_from; remove the line", option, entry)
		}
		return ID{directory: entry}, nil
	}
	return ID{}, fmt.Errorf("%s %s: unknown directory; write the name of one, as in `members_from gitlab`", option, entry)
}

// foldName returns the same text for names that differ only in case or in
// compatible forms of characters (Unicode NFKC).
func foldName(name string) string {
	plain := true
	for i := range len(name) {
		plain = plain && name[i] < 0x80 && (name[i] < 'A' || name[i] > 'Z')
	}
	if plain {
		return name // the common case, on the path of each request
	}
	return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(name)))
}
