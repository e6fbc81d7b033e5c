package gitlab

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

func (d *Directory) check() error {
	if err := d.checkURL(); err != nil {
		return err
	}
	if d.Grace != 0 && d.Grace < cmp.Or(d.CacheFor, caddy.Duration(defaultCacheFor)) {
		return fmt.Errorf("directory gitlab: grace %v must not be shorter than cache_for", time.Duration(d.Grace))
	}
	return cmp.Or(d.checkGroups(), d.checkServiceToken())
}

func (d *Directory) checkURL() error {
	if strings.Contains(d.URL, "{") {
		return nil // Provision checks it after replacing placeholders
	}
	_, err := parseURL(d.URL)
	return err
}

// parseURL parses the URL of an instance. Its error does not show the URL, which may
// hold a password by mistake.
func parseURL(text string) (*url.URL, error) {
	u, ok := parse.URL(text, "https", "http")
	if !ok {
		return nil, errors.New("directory gitlab: invalid URL; use one such as https://gitlab.example.com")
	}
	return u, nil
}

func (d *Directory) checkServiceToken() error {
	switch {
	case d.Token == "":
		return errors.New("directory gitlab: missing service token; write `token {file./run/secrets/gitlab}`")
	case !parse.IsPlaceholder(d.Token):
		return errors.New("directory gitlab: the token must be a placeholder, since the admin API shows the configuration; write {env.GITLAB_TOKEN} or {file./run/secrets/gitlab}")
	}
	return nil
}

func (d *Directory) checkGroups() error {
	if d.Groups != nil && len(d.Groups) == 0 {
		return errors.New("directory gitlab: groups is empty; write patterns, or leave it out")
	}
	for _, pattern := range d.Groups {
		if lower := strings.ToLower(pattern); lower != pattern {
			return fmt.Errorf("directory gitlab: groups '%s': the paths of groups are in lower case here; write %s", pattern, lower)
		}
		for _, component := range strings.Split(pattern, "/") {
			if err := parse.Pattern(component, parse.IsNameByte); err != nil {
				return fmt.Errorf("directory gitlab: groups '%s': %w; write paths of groups, as in acme, acme/* or acme/**", pattern, err)
			}
		}
	}
	return nil
}
