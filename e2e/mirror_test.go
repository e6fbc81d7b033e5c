//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Docker Hub login, which the proxy does not know.
const (
	hubUser     = "hub-user"
	hubPassword = "hub-secret"
)

// basicAuth returns the value of an Authorization header.
func basicAuth(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// hostsFile directs a node's pulls from Docker Hub to the proxy. The server line is
// what containerd would try next; it does not answer.
const hostsFile = `server = "https://127.0.0.1:9"

[host."https://%s"]
  capabilities = ["pull", "resolve"]
%s`

// TestContainerdMirror pulls an image of Docker Hub through the proxy, with the
// login in the node's configuration, with one given to the pull, with that of Docker
// Hub from a public group, and with the path that containerd makes of the mirror's.
func TestContainerdMirror(t *testing.T) {
	const override, path = "  override_path = true\n", "/dependency_proxy/containers"
	header := fmt.Sprintf("  [host.\"https://%s/v2/acme%s\".header]\n    Authorization = %q\n", proxyName, path, basicAuth("alice", password))
	for name, way := range map[string]struct {
		mirror, lines string
		user          string
	}{
		"header":        {mirror: "/v2/acme" + path, lines: override + header},
		"user":          {mirror: "/v2/acme" + path, lines: override, user: "alice:" + password},
		"user-path":     {mirror: "/acme" + path, user: "alice:" + password},
		"foreign":       {mirror: "/v2/open" + path, lines: override, user: hubUser + ":" + hubPassword},
		"foreign-path":  {mirror: "/open" + path, user: hubUser + ":" + hubPassword},
		"no-login":      {mirror: "/v2/open" + path, lines: override},
		"no-login-path": {mirror: "/open" + path},
	} {
		for _, ctr := range []string{"ctr", "ctr2"} {
			t.Run(name+" "+ctr, func(t *testing.T) {
				c := newClient(t)
				img := lab.push.index(t, "library/mirrored-"+ctr+"-"+name, "1", 1<<20)
				folder := filepath.Join(c.home, "hosts", "docker.io")
				must(t, os.MkdirAll(folder, 0o755))
				hosts := fmt.Sprintf(hostsFile, proxyName+way.mirror, way.lines)
				must(t, os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(hosts), 0o644))

				reference := "docker.io/library/" + shortName(img) + ":1"
				images := []string{ctr, "--address", lab.containerdAddress(ctr), "images"}
				pull := append(images, "pull", "--snapshotter", "native", "--hosts-dir", filepath.Dir(folder))
				if way.user != "" {
					pull = append(pull, "--user", way.user)
				}
				lab.plain.forget()
				c.run(t, append(pull, reference)...)
				inContainerd(t, c, images, reference, img)
				lab.plain.wantOnce(t, img.blobsFor(ctr))
				c.run(t, append(images, "rm", "--sync", reference)...)
			})
		}
	}
	if strings.Contains(lab.main.output(), hubUser) {
		t.Error("the log names the user of Docker Hub, whose login was to be ignored")
	}
}

// TestDockerMirror pulls an image of Docker Hub with a Docker Engine that has the
// proxy in its registry-mirrors, without a login, and with one of Docker Hub, which
// it sends to the mirror.
func TestDockerMirror(t *testing.T) {
	p := newProxy(t)
	// Docker Engine 20.10 permits no path in the address of a mirror.
	p.sites = strings.Replace(p.sites, "import proxy", "rewrite /v2/* /open/dependency_proxy/containers{uri}\n\timport proxy", 1)
	p.launch(t, lab.mainBody())
	seen, err := newFront("127.0.0.1:0", "https://"+p.host, lab.authority, "localhost")
	must(t, err)
	t.Cleanup(seen.stop)
	_, port, _ := strings.Cut(seen.address, ":")

	folder := t.TempDir()
	host := "unix://" + folder + "/docker.sock"
	engine, err := startEngine(folder, host, "--registry-mirror", "https://localhost:"+port)
	must(t, err)
	t.Cleanup(engine.stop)
	engine.showOnFailure(t)
	must(t, engine.ready(commandWorks("docker", "--host", host, "info")))

	for name, login := range map[string]string{"no-login": "", "hub-login": basicAuth(hubUser, hubPassword)} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, "DOCKER_HOST="+host)
			if login != "" {
				config := fmt.Sprintf(`{"auths": {"https://index.docker.io/v1/": {"auth": %q}}}`, strings.TrimPrefix(login, "Basic "))
				must(t, os.MkdirAll(filepath.Join(c.home, ".docker"), 0o755))
				must(t, os.WriteFile(filepath.Join(c.home, ".docker", "config.json"), []byte(config), 0o600))
			}
			img := lab.push.index(t, "library/docker-mirror-"+name, "1", 1<<20)
			seen.forget()
			lab.plain.forget()
			dockerPull(t, c, shortName(img)+":1", img)
			lab.plain.wantOnce(t, img.blobs())
			sent := ""
			for _, request := range seen.requests() {
				if strings.HasPrefix(request.authorization, "Basic ") {
					sent = request.authorization
				}
			}
			if sent != login {
				t.Errorf("Docker sent the login %q to the mirror, want %q", sent, login)
			}
		})
	}
	if out := p.output(); strings.Contains(out, hubUser) || strings.Contains(out, "login refused") {
		t.Error("the log has the login of Docker Hub, which was to be ignored")
	}
}
