package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// resolver is how the entries of a line are read.
type resolver func(l access.Directories, word, entry string) (access.ID, error)

// accountLine is an entry of a Caddyfile's line that names accounts or a
// directory. What it means is known when all of the directive has been read.
type accountLine struct {
	at          caddyfile.Dispenser
	word, entry string
	read        resolver
}

// accountArgs reads a line of accounts, to be checked by checkLines.
func (h *Handler) accountArgs(d *caddyfile.Dispenser, to *[]string, read resolver) error {
	word, before := d.Val(), len(*to)
	if err := parse.Args(d, to); err != nil {
		return err
	}
	for _, entry := range (*to)[before:] {
		h.lines = append(h.lines, accountLine{*d, word, entry, read})
	}
	return nil
}

// checkLines checks the lines that name accounts, each at its place in the file.
func (h *Handler) checkLines(l access.Directories) error {
	for _, line := range h.lines {
		if _, err := line.read(l, line.word, line.entry); err != nil {
			return line.at.WrapErr(err)
		}
	}
	return nil
}
