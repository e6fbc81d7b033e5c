package sitetest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

func init() { caddy.RegisterModule(new(scribbler)) }

// scribbler is an authentication provider that writes headers and a body of its
// own to each response.
type scribbler struct {
	Mode string `json:"mode,omitempty"`
	Word string `json:"word,omitempty"`
}

// What the provider scribbler has received.
var (
	ScribblerBody  atomic.Value // body of the last request, as far as it could be read
	ScribblerHeard atomic.Value // names in the last request
)

func (*scribbler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.providers.scribbler", New: func() caddy.Module { return new(scribbler) }}
}

func (s *scribbler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if err := parse.Arg(d, &s.Mode); err != nil {
		return err
	}
	return parse.Lines(d, "scribbler", map[string]func(*caddyfile.Dispenser) error{
		"word": func(d *caddyfile.Dispenser) error { return parse.Arg(d, &s.Word) },
	})
}

func (s *scribbler) Authenticate(w http.ResponseWriter, r *http.Request) (caddyauth.User, bool, error) {
	body, _ := io.ReadAll(r.Body)
	ScribblerBody.Store(string(body))
	w.Header().Set("WWW-Authenticate", `Basic realm="scribble"`)
	w.Header().Set("Set-Cookie", "scribble=1")
	http.Redirect(w, r, "https://login.example/scribble", http.StatusFound)
	_, _ = io.WriteString(w, "scribble")
	name, given, _ := r.BasicAuth()
	ScribblerHeard.Store(name + r.PostFormValue("username"))
	if given == "broken" {
		return caddyauth.User{}, false, errors.New("the scribbler has broken its pen")
	}
	user := caddyauth.User{ID: name, Metadata: map[string]string{"teams": "acme, acme/platform\tx/../y UPPER,,tools acme"}}
	if ldaptest.ValueKey(name) == "root" {
		user.ID = "root"
	}
	switch name {
	case "Alice":
		user.ID = "alice"
	case "empty":
		user.ID = ""
	case "many":
		for i := range 100 {
			user.Metadata["teams"] += fmt.Sprintf(" group-%d", i)
		}
	}
	return user, given == PasswordOf("scribbler"), nil
}
