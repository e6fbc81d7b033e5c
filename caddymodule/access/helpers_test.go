package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
)

// throttleTest is a throttle with its own clock.
type throttleTest struct {
	*Throttle
	t     *testing.T
	clock time.Time
}

func newThrottleTest(t *testing.T) *throttleTest {
	tt := &throttleTest{NewThrottle(Times{}, 0), t, time.Unix(1e9, 0)}
	tt.now = func() time.Time { return tt.clock }
	return tt
}

// login checks a login, which is right if its password begins with "right". It
// reports whether the throttle admitted it.
func (tt *throttleTest) login(address, name, password string) (admitted bool) {
	a, limited := tt.admit(address, name, password, !new(Accounts).isToken(name, password))
	if limited != nil {
		if limited.Wait <= 0 || limited.Reason == "" {
			tt.t.Errorf("error of the throttle: got %+v, want a wait and a reason", limited)
		}
		return false
	}
	defer a.release()
	if strings.HasPrefix(password, "right") {
		a.accepted()
	} else {
		a.refused()
	}
	return true
}

// guess sends n logins with different wrong passwords and returns how many the
// throttle admitted.
func (tt *throttleTest) guess(n int, address, name string) (admitted int) {
	for i := range n {
		if tt.login(address, name, fmt.Sprint("wrong ", address, i, tt.clock)) {
			admitted++
		}
	}
	return admitted
}

func (tt *throttleTest) expect(what string, got, want any) {
	tt.t.Helper()
	if got != want {
		tt.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// groupDirectory is a directory with two accounts and with groups of its own:
// theirs and theirs/sub are private, and erin is a maintainer there; their-open is
// public. It cannot answer about the group broken.
type groupDirectory struct{ directory.Directory }

// Lookup returns every account except nobody. It has to be given facts for erin.
func (groupDirectory) Lookup(_ context.Context, name, facts string) (directory.Account, error) {
	if name == "nobody" || name == "erin" && facts == "" {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return directory.Account{Name: name, Facts: facts, Version: "7"}, nil
}

func (groupDirectory) RoleIn(_ context.Context, account directory.Account, group string) (directory.Role, error) {
	if account.Name == "erin" && within(group, "theirs") {
		return directory.Maintainer, nil
	}
	return directory.NoRole, nil
}

func (groupDirectory) VisibilityOf(_ context.Context, group string) (directory.Visibility, error) {
	switch group {
	case "theirs", "theirs/sub":
		return directory.Private, nil
	case "their-open":
		return directory.Public, nil
	case "broken":
		return "", errors.New("away")
	}
	return "", fs.ErrNotExist
}

func (groupDirectory) MayBePublic() bool { return true }

// staticDirectory returns a static directory with the given accounts.
func staticDirectory(names ...string) *static.Directory {
	s := new(static.Directory)
	for _, name := range names {
		s.Users = append(s.Users, &static.User{Name: name})
	}
	return s
}
