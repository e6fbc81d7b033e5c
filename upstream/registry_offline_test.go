package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// forbidden is a transport that must not be used.
type forbidden struct{ *testing.T }

func (f forbidden) RoundTrip(r *http.Request) (*http.Response, error) {
	f.Errorf("%s %s was sent, want nothing to be sent", r.Method, r.URL)
	return nil, errors.New("a transport was used while offline")
}

// TestRegistryOffline checks that a registry that is offline neither sends anything nor
// asks for its login, with one address and with several.
func TestRegistryOffline(t *testing.T) {
	config := Config{Name: "hub", Offline: true, Transport: forbidden{t}, Ranges: forbidden{t},
		Login: func(context.Context, *auth.Login) (auth.Login, error) {
			t.Error("the login was asked for, want it not to be")
			return auth.Login{Username: "alice", Password: "secret"}, nil
		}}
	var registries []*Registry
	for _, endpoint := range []string{"https://one.example", "https://two.example"} {
		config.Endpoint, _ = url.Parse(endpoint)
		r, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		registries = append(registries, r)
	}
	d := digest.FromString("content")
	for name, m := range map[string]*Mirrors{"one": NewMirrors(registries[0]), "two": NewMirrors(registries[0], registries[1])} {
		if !m.IsOffline() {
			t.Errorf("%s: got online, want offline", name)
		}
		for question, ask := range map[string]func(context.Context) error{
			"manifest":      func(ctx context.Context) error { _, err := m.Manifest(ctx, "app", "1.0"); return err },
			"manifest HEAD": func(ctx context.Context) error { _, err := m.ResolveManifest(ctx, "app", string(d)); return err },
			"tag":           func(ctx context.Context) error { _, err := m.ResolveTag(ctx, "app", "1.0", 0); return err },
			"tag again":     func(ctx context.Context) error { _, err := m.RefetchTag(ctx, "app", "1.0", 0); return err },
			"blob HEAD":     func(ctx context.Context) error { _, err := m.StatBlob(ctx, "app", d, -1); return err },
			"blob":          func(ctx context.Context) error { _, err := m.Blob(ctx, "app", d, 0, -1, ""); return err },
			"range":         func(ctx context.Context) error { _, err := m.Blob(ctx, "app", d, 10, 10, ""); return err },
			"tags":          func(ctx context.Context) error { _, err := m.Tags(ctx, "app", url.Values{}); return err },
			"referrers":     func(ctx context.Context) error { _, err := m.Referrers(ctx, "app", d, ""); return err },
			"version":       func(ctx context.Context) error { _, err := registries[0].versionCheck(ctx, auth.Login{}); return err },
			"token":         func(ctx context.Context) error { return askToken(ctx, registries[0]) },
		} {
			if err := ask(t.Context()); KindOf(err) != Offline {
				t.Errorf("%s address, %s: got the error %v, want one of kind %v", name, question, err, Offline)
			}
		}
	}
}

// askToken asks a token service, as after a challenge that was received while online: one
// that wants GET, and one that wants POST.
func askToken(ctx context.Context, r *Registry) error {
	wanted := auth.Request{Challenge: &auth.Challenge{Realm: r.endpoint}, Repository: "app"}
	login := auth.Login{Username: "alice", Password: "secret"}
	_, get := r.requestToken(ctx, newVersionCall(), wanted, login)
	r.postRealms.Add(r.endpoint.String(), struct{}{})
	_, post := r.requestToken(ctx, newVersionCall(), wanted, login)
	if KindOf(post) != Offline {
		return post
	}
	return get
}
