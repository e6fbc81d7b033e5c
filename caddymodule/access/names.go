package access

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// ID names an account: a directory, and a name in it. Two directories may
// have the same name for different people, so a name is never compared without
// its directory.
type ID struct{ directory, name string }

// String returns the account as the configuration lists it.
func (id ID) String() string {
	if id.directory == TokensDirectory {
		return id.name // which begins with token:
	}
	return id.directory + ":" + id.name
}

// listed is a directory as the configuration has it, before its module
// is loaded.
type listed struct {
	Name, kind string
	users      []string // of the user lines of a static one
	issuer     string   // of the id tokens of one that is oidc
}

// Directories is all directories of a site, in their order.
type Directories []listed

// ListDirectories reads from the configuration how its directories are called.
func ListDirectories(raws []json.RawMessage) (Directories, error) {
	var list Directories
	for _, raw := range raws {
		var module struct {
			Type   string          `json:"type"`
			Name   string          `json:"name"`
			Prefix json.RawMessage `json:"prefix"`
			Issuer string          `json:"issuer"`
		}
		if err := json.Unmarshal(raw, &module); err != nil {
			return nil, fmt.Errorf("a directory: %w", err)
		}
		d := listed{Name: module.Type, kind: module.Type, issuer: module.Issuer}
		if module.Name != "" || d.Name+":" == tokenName || d.Name == TokensDirectory {
			d.Name = cmp.Or(module.Name, d.Name)
			if err := directory.CheckName(d.Name); err != nil {
				return nil, fmt.Errorf("directory %s: %w", module.Type, err)
			}
		}
		if module.Prefix != nil && (d.kind == "oidc" || d.kind == "authentication") {
			return nil, fmt.Errorf("directory %s: %w", module.Type, parse.ErrPrefix)
		}
		if d.kind == "static" {
			var static struct {
				Users []struct{ Name string } `json:"users"`
			}
			if err := json.Unmarshal(raw, &static); err != nil {
				return nil, fmt.Errorf("directory %s: %w", d.Name, err)
			}
			for _, u := range static.Users {
				d.users = append(d.users, u.Name)
			}
		}
		list = append(list, d)
	}
	return list, list.check()
}

// check finds two directories of one name.
func (l Directories) check() error {
	for i, d := range l {
		if !l[:i].has(d.Name) {
			continue
		}
		err := fmt.Errorf("two directories are called %s; write a line as in `name %s-2` in the block of one", d.Name, d.kind)
		if d.kind == "static" {
			err = fmt.Errorf("%w; the `user` lines beside the groups are the directory static", err)
		}
		return err
	}
	return nil
}

// namesOf returns how directories are called that are loaded.
func namesOf(directories []Named) Directories {
	list := make(Directories, len(directories))
	for i, d := range directories {
		list[i] = listed{Name: d.Name, kind: d.kind()}
		if sourced, ok := d.Directory.(directory.Sourced); ok && list[i].kind == "oidc" {
			list[i].issuer = sourced.Source()
		}
		if local, ok := d.Directory.(directory.Local); ok {
			list[i].users = local.Listed()
		}
	}
	return list
}

// kind returns the name of a directory's module.
func (d Named) kind() string {
	if module, ok := d.Directory.(caddy.Module); ok {
		return module.CaddyModule().ID.Name()
	}
	return d.Name
}

func (l Directories) has(name string) bool {
	return slices.ContainsFunc(l, func(d listed) bool { return d.Name == name })
}

// Account finds out which account an entry of a line means: DIRECTORY:NAME, or
// the bare name of a `user` line, or of the only directory there is. The word is
// that of the line, for the error that shows what to write.
func (l Directories) Account(word, entry string) (ID, error) {
	if err := l.former(word, entry); err != nil {
		return ID{}, err
	}
	directory, name, qualified := strings.Cut(entry, ":")
	switch {
	case !qualified && entry != "":
		return l.bare(word, entry)
	case entry == "" || name == "":
		return ID{}, fmt.Errorf("%s '%s': it names no account; write DIRECTORY:NAME", word, entry)
	case directory+":" == tokenName && accesstoken.IsID(name):
		return ID{TokensDirectory, entry}, nil
	case l.has(directory):
		return ID{directory, name}, nil
	}
	return ID{}, fmt.Errorf("%s %s: no directory is called '%s'%s", word, entry, directory, l.lines(word, entry, name))
}

// former finds an entry that names the account of an id token as earlier versions
// did, with the issuer before it. By itself it would be another name of somebody.
func (l Directories) former(word, entry string) error {
	for _, d := range l {
		if name, ok := strings.CutPrefix(entry, directory.FormerPrefix(d.issuer)); ok && d.kind == "oidc" && name != "" {
			return fmt.Errorf("%s %s: accounts of id tokens have no issuer before their names any more; write `%s %s:%s`", word, entry, word, d.Name, name)
		}
	}
	return nil
}

func (l Directories) bare(word, name string) (ID, error) {
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
		return ID{}, fmt.Errorf("%s %s: there are no accounts; write `user %s HASH` beside the groups, with a hash as `caddy hash-password` prints it", word, name, name)
	case len(listing) == 0:
		listing = l
	}
	return ID{}, fmt.Errorf("%s %s: there are several directories, so it takes the name of one%s", word, name, listing.lines(word, name, name))
}

// lines are the lines that name an account in one of the directories: the entry,
// or what is behind its colon where names have none.
func (l Directories) lines(word, entry, name string) string {
	var lines []string
	for _, d := range l {
		as := entry
		if d.kind == "static" || d.kind == "ldap" || d.kind == "gitlab" {
			as = name
		}
		lines = append(lines, fmt.Sprintf("`%s %s:%s`", word, d.Name, as))
	}
	if lines == nil {
		return ""
	}
	return "; write " + strings.Join(lines, " or ")
}

// Blocked finds out which accounts an entry of `blocked` means: those of a name,
// in one directory or, where the directory is empty, in each. The name is folded.
func (l Directories) Blocked(word, entry string) (ID, error) {
	if entry != "" && !strings.Contains(entry, ":") {
		return ID{name: foldName(entry)}, l.former(word, entry)
	}
	id, err := l.Account(word, entry)
	return ID{id.directory, foldName(id.name)}, err
}

// MemberDirectory checks an entry of `members_from`.
func (l Directories) MemberDirectory(word, entry string) (ID, error) {
	for _, d := range l {
		if d.Name != entry {
			continue
		}
		switch d.kind {
		case "static":
			return ID{}, fmt.Errorf("%s %s: the directory has no groups; write `members %s:NAME...`", word, entry, entry)
		case "ldap", "oidc":
			return ID{}, fmt.Errorf("%s %s: the directory has no groups but those of its `map` lines, which count without this; leave the line out", word, entry)
		}
		return ID{directory: entry}, nil
	}
	return ID{}, fmt.Errorf("%s %s: no directory is called so; write the name of one, as in `members_from gitlab`", word, entry)
}

// foldName returns the same for all spellings of a name: with case folded, and
// with what Unicode calls compatible made equal (NFKC).
func foldName(name string) string {
	plain := true
	for i := range len(name) {
		plain = plain && name[i] < 0x80 && (name[i] < 'A' || name[i] > 'Z')
	}
	if plain {
		return name // as nearly all are, at each request
	}
	return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(name)))
}
