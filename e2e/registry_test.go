//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// Addresses of the stack. The network namespace is not shared, so the ports can be
// fixed.
const (
	plainFront     = "127.0.0.1:5000"
	plainRegistry  = "127.0.0.1:5001"
	tokenFront     = hubAddr + ":5443"
	tokenRegistry  = "127.0.0.1:5002"
	hubFront       = hubAddr + ":443"
	hubRegistry    = "127.0.0.1:5003"
	tokenEndpoint  = "https://" + hubName + ":5443"
	hubEndpoint    = "https://" + hubName
	plainEndpoint  = "http://" + plainFront
	authRealm      = "https://" + authName + "/token"
	registryConfig = `version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: %s
http:
  addr: %s
`
	registryAuth = `auth:
  token:
    realm: %s
    service: hub
    issuer: hub
    jwks: %s
`
	registryRedirect = `middleware:
  storage:
    - name: redirect
      options:
        baseurl: https://%s
`
)

// startUpstream starts three distribution registries with one storage, and their
// fronts: one without a login, one with a token service, and one that also
// redirects blobs to a third host, as Docker Hub does.
func (l *laboratory) startUpstream() error {
	service, err := newTokenService()
	if err != nil {
		return err
	}
	keys := filepath.Join(l.dir, "jwks.json")
	if err := os.WriteFile(keys, service.jwks(), 0o644); err != nil {
		return err
	}
	auth := fmt.Sprintf(registryAuth, authRealm, keys)
	redirect := fmt.Sprintf(registryRedirect, cdnName)
	if err := l.startRegistry("registry-plain", plainRegistry, ""); err != nil {
		return err
	}
	if err := l.startRegistry("registry-token", tokenRegistry, auth); err != nil {
		return err
	}
	if err := l.startRegistry("registry-hub", hubRegistry, auth+redirect); err != nil {
		return err
	}
	return l.startFronts(service)
}

func (l *laboratory) startFronts(service http.Handler) (err error) {
	if l.plain, err = newFront(plainFront, "http://"+plainRegistry, nil, ""); err != nil {
		return err
	}
	if l.token, err = newFront(tokenFront, "http://"+tokenRegistry, l.authority, hubName); err != nil {
		return err
	}
	if l.hub, err = newFront(hubFront, "http://"+hubRegistry, l.authority, hubName); err != nil {
		return err
	}
	if l.auth, err = newRecorder(authAddr+":443", service, l.authority, authName); err != nil {
		return err
	}
	// The redirected paths are those of the files in the registry's storage.
	files := http.FileServer(http.Dir(l.storage()))
	l.cdn, err = newRecorder(cdnAddr+":443", files, l.authority, cdnName)
	return err
}

func (l *laboratory) storage() string { return filepath.Join(l.dir, "upstream") }

func (l *laboratory) startRegistry(name, address, more string) error {
	config := filepath.Join(l.dir, name+".yml")
	text := fmt.Sprintf(registryConfig, l.storage(), address) + more
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	p, err := l.start(name, plainEnv(l.dir, "OTEL_TRACES_EXPORTER=none"), "registry", "serve", config)
	if err != nil {
		return err
	}
	return p.ready(func() error {
		answer, err := http.Get("http://" + address + "/v2/")
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
}
