package access

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// Directories lists the directories of a site in their order, to resolve the
// accounts that a configuration names. It does not need their modules.
type Directories []listedDirectory

type listedDirectory struct {
	Name   string
	kind   string   // the name of the module
	users  []string // the accounts in the configuration of a static directory
	issuer string   // the issuer of an oidc directory
}

// ListDirectories reads the names of directories from their configuration. The
// error says what to write if a name is invalid, reserved or used twice.
func ListDirectories(raws []json.RawMessage) (Directories, error) {
	var list Directories
	for _, raw := range raws {
		d, err := listDirectory(raw)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, list.checkDuplicates()
}

func listDirectory(raw json.RawMessage) (listedDirectory, error) {
	var module struct {
		Type   string          `json:"type"`
		Name   string          `json:"name"`
		Prefix json.RawMessage `json:"prefix"`
		Issuer string          `json:"issuer"`
	}
	if err := json.Unmarshal(raw, &module); err != nil {
		return listedDirectory{}, fmt.Errorf("reading a directory: %w", err)
	}
	d := listedDirectory{Name: module.Type, kind: module.Type, issuer: module.Issuer}
	if module.Name != "" || d.Name+":" == tokenName || d.Name == TokensDirectory {
		d.Name = cmp.Or(module.Name, d.Name)
		if err := directory.CheckName(d.Name); err != nil {
			return d, fmt.Errorf("directory %s: %w", module.Type, err)
		}
	}
	if module.Prefix != nil && (d.kind == "oidc" || d.kind == "authentication") {
		return d, fmt.Errorf("directory %s: %w", module.Type, parse.ErrPrefix)
	}
	if d.kind == "static" {
		var static struct {
			Users []struct{ Name string } `json:"users"`
		}
		if err := json.Unmarshal(raw, &static); err != nil {
			return d, fmt.Errorf("directory %s: %w", d.Name, err)
		}
		for _, u := range static.Users {
			d.users = append(d.users, u.Name)
		}
	}
	return d, nil
}

func (l Directories) checkDuplicates() error {
	for i, d := range l {
		if !l[:i].has(d.Name) {
			continue
		}
		err := fmt.Errorf("duplicate directory name '%s'; write a line such as `name %s-2` in the block of one", d.Name, d.kind)
		if d.kind == "static" {
			err = fmt.Errorf("%w; the `user` lines beside the groups form the directory static", err)
		}
		return err
	}
	return nil
}

// namesOf lists directories whose modules are loaded.
func namesOf(directories []Named) Directories {
	list := make(Directories, len(directories))
	for i, d := range directories {
		list[i] = listedDirectory{Name: d.Name, kind: d.kind()}
		if sourced, ok := d.Directory.(directory.Sourced); ok && list[i].kind == "oidc" {
			list[i].issuer = sourced.Source()
		}
		if local, ok := d.Directory.(directory.Local); ok {
			list[i].users = local.Listed()
		}
	}
	return list
}

// kind returns the name of the module of a directory.
func (d Named) kind() string {
	if module, ok := d.Directory.(caddy.Module); ok {
		return module.CaddyModule().ID.Name()
	}
	return d.Name
}

func (l Directories) has(name string) bool {
	return slices.ContainsFunc(l, func(d listedDirectory) bool { return d.Name == name })
}
