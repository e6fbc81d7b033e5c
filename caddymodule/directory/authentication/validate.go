package authentication

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
)

func (a *Directory) check() error {
	if a.ProviderRaw == nil {
		return errors.New("directory authentication: missing provider; write `provider MODULE ...`")
	}
	if age := time.Duration(a.MaxAge); age != 0 && age < time.Minute {
		return fmt.Errorf("max_age %v is too short; write a duration of at least 1m", age)
	}
	return nil
}

// checkBasicHashes rejects accounts whose hashes take too long to compare.
func checkBasicHashes(basic *caddyauth.HTTPBasicAuth) error {
	for name, account := range basic.Accounts {
		hash := account.Password
		if !strings.HasPrefix(hash, "$") {
			plain, err := base64.StdEncoding.DecodeString(hash)
			if err != nil {
				return fmt.Errorf("http_basic: user %s: the password hash is not base64", name)
			}
			hash = string(plain)
		}
		if _, _, err := static.Comparer(hash); err != nil && !errors.Is(err, static.ErrUnknownHash) {
			return fmt.Errorf("http_basic: user %s: %w", name, err)
		}
	}
	return nil
}
