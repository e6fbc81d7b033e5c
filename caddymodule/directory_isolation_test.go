package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// rootDirectory is a directory with an account named root.
type rootDirectory struct {
	name, lines string
	credentials map[string]string // by kind
	names       []string          // user names for them besides the spellings of root
}

// rootSpellings are spellings of root that some directory accepts for it.
var rootSpellings = []string{"root", "ROOT", "Root", " root", "root ", "  root  ", "\uff52oot", "\uff32\uff2f\uff2f\uff34", "r\u00f6ot", "ro\u0308ot"}

// rootDirectories are functions that start a directory of each kind.
var rootDirectories = []func(t *testing.T) rootDirectory{
	func(*testing.T) rootDirectory {
		// Not bcrypt, which takes most of the time with the race detector.
		lines := "directory static {\n user root " + hexOf("root-of-static") + "\n hash hex\n}\n"
		return rootDirectory{"static", lines, map[string]string{"password": "root-of-static"}, nil}
	},
	func(t *testing.T) rootDirectory {
		l := ldaptest.New(t, true)
		l.Put("uid=root,"+ldaptest.People, "uid", "root", "userPassword", "root-of-ldap", "entryUUID", "uuid-root")
		return rootDirectory{"ldap", l.Directory(), map[string]string{"password": "root-of-ldap"}, nil}
	},
	func(t *testing.T) rootDirectory {
		g := gitlabtest.New(t)
		personal := g.AddUser(1, "root")
		g.AddGroup(1, "team", "private", 1)
		scopes := []string{"read_registry", "write_registry"}
		g.Change(func() {
			g.Users[2] = &gitlabtest.User{Name: "root_bot", State: "active", Bot: true}
			g.Tokens["glpat-bot-secret-that-must-not-leak"] = &gitlabtest.Token{ID: 2, User: 2, Name: "root", Scopes: []string{"api"}}
			g.Groups[1].Deploy[3] = &gitlabtest.DeployToken{Name: "root", Secret: "gldt-deploy-secret-that-must-not-leak", Scopes: scopes}
			g.Jobs["glcbt-job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 4, Project: 70, User: 1, Status: "running"}
		})
		return rootDirectory{"gitlab", sitetest.GitlabAt(t, g, "cache_for 1m"), map[string]string{
			"personal token": personal, "group token": "glpat-bot-secret-that-must-not-leak",
			"deploy token": "gldt-deploy-secret-that-must-not-leak", "job token": "glcbt-job-secret-that-must-not-leak",
		}, []string{"gitlab-ci-token"}}
	},
	func(t *testing.T) rootDirectory {
		issuer := oidctest.New(t)
		return rootDirectory{"oidc", issuer.Directory("require repository_owner acme"), map[string]string{"id token": issuer.Token(oidctest.Claim("sub", "root"))}, []string{"ci"}}
	},
	func(*testing.T) rootDirectory {
		return rootDirectory{"authentication", "directory authentication {\n provider scribbler on\n}\n", map[string]string{"password": sitetest.PasswordOf("scribbler")}, nil}
	},
}

// TestLoginOfAnotherDirectory checks that a login of one directory never
// becomes the account of the same name in another one, whatever name and
// credential is sent and in whichever order the directories are.
func TestLoginOfAnotherDirectory(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Private("acme"))
	succeeded := make(map[string]bool)
	for at, newTrusted := range rootDirectories {
		for beside, newOther := range rootDirectories {
			if at == beside {
				continue
			}
			for swapped := range 2 {
				// New servers each time, because the number of wrong deploy
				// tokens sent to GitLab is limited.
				trusted, other := newTrusted(t), newOther(t)
				order := [2]rootDirectory{trusted, other}
				if swapped == 1 {
					order = [2]rootDirectory{other, trusted}
				}
				s.Load(order[0].lines, order[1].lines, sitetest.Private("secret", trusted.name+":root"), "admins "+trusted.name+":root")
				// Both directories, with access tokens for the accounts
				// that can have one.
				for i, d := range []*rootDirectory{&trusted, &other} {
					credentials := map[string]string{}
					for what, secret := range d.credentials {
						credentials[what] = secret
					}
					if slices.Contains([]string{"static", "ldap", "gitlab"}, d.name) {
						credentials["access token"], _ = s.CreateToken("--account", d.name+":root", "--scope", "manage")
					}
					for what, secret := range credentials {
						for _, name := range append(d.names, rootSpellings...) {
							text := fmt.Sprintf("%s before %s: %q with a %s of %s", order[0].name, order[1].name, name, what, d.name)
							who, ok := callerOf(t, text, name, secret)
							if !ok {
								continue
							}
							succeeded[d.name+" "+what] = true
							if who.Directory != d.name || who.Admin != (i == 0 && who.Name == "root" && d.name == trusted.name) {
								t.Errorf("%s: got %s, admin %v; want an account of %s, and an admin only if it is the trusted root", text, who.ID(), who.Admin, d.name)
							}
							verdict, err := runningHandler(t).policy.Decide(t.Context(), who, "secret", directory.Member)
							if err != nil || verdict.Allowed && who.Directory != trusted.name {
								t.Errorf("%s: got %+v, error %v in the group of the other directory, want a denial", text, verdict, err)
							}
						}
					}
				}
			}
		}
	}
	for _, start := range rootDirectories {
		d := start(t)
		for what := range d.credentials {
			if !succeeded[d.name+" "+what] {
				t.Errorf("got no login with a %s of %s, want one, or else the test shows nothing about it", what, d.name)
			}
		}
	}
}

// callerOf returns the caller of a login at the running site and whether the
// login is accepted. It checks that the token issued for the login is of the
// same caller.
func callerOf(t *testing.T, text, name, secret string) (access.Caller, bool) {
	t.Helper()
	h := runningHandler(t)
	request := httptest.NewRequest(http.MethodGet, "/jwt/auth", nil)
	who, err := h.accounts.Authenticate(t.Context(), directory.Login{Name: name, Password: secret, Request: request, Subnet: text})
	if err != nil {
		if !directory.IsRefusal(err) {
			t.Errorf("%s: got %v, want a refusal or an account", text, err)
		}
		return access.Caller{}, false
	}
	const origin = "https://registry.example.com"
	token, err := h.issuer.Mint(t.Context(), tokenissuer.MintRequest{Issuer: origin, Identity: who.Identity(), Lifetime: time.Minute, Use: tokenissuer.Access})
	if err != nil {
		t.Fatal(err)
	}
	id, err := h.issuer.Verify(t.Context(), token.Raw, origin, tokenissuer.Access)
	if err != nil {
		t.Fatal(err)
	}
	bearer, err := h.accounts.Current(t.Context(), id)
	if err != nil || bearer.ID() != who.ID() || bearer.Admin != who.Admin {
		t.Errorf("%s: got %s by the token, error %v; want %s as by Basic", text, bearer.ID(), err, who.ID())
	}
	if _, isToken := accesstoken.Parse(secret); isToken != (who.Token != "") {
		t.Errorf("%s: got the access token %q, want one only if the secret is one", text, who.Token)
	}
	return who, true
}
