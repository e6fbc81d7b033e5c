package ldap

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"
)

// unmarkedRefresh is how long refresh tokens of an account are good for whose
// directory does not tell when a password changes.
const unmarkedRefresh = 24 * time.Hour

// defaultMarkers are the attributes by which servers tell when a password was
// changed: those with a password policy after draft-behera-ldap-password-policy,
// and Active Directory.
var defaultMarkers = []string{"pwdChangedTime", "pwdLastSet"}

// markers are the attributes to look at, the first that an entry has counting.
// There are none where an account cannot be looked up again after its login.
func (l *Directory) markers() []string {
	switch {
	case l.BindDN == "":
		return nil
	case l.PasswordChanged != "":
		return []string{l.PasswordChanged}
	}
	return defaultMarkers
}

// readMarker returns what of an entry changes with its password, and logs once
// for each attribute that it is the one.
func (l *Directory) readMarker(found *ldap.Entry) string {
	for _, attr := range l.markers() {
		if value := found.GetEqualFoldRawAttributeValue(attr); len(value) > 0 {
			if _, told := l.marked.LoadOrStore(attr, true); !told {
				l.dialer.logger.Info("refresh tokens end when this attribute of the account changes", zap.String("attribute", attr))
			}
			return attr + " " + string(value)
		}
	}
	if _, told := l.marked.LoadOrStore("", true); !told && l.BindDN != "" {
		l.dialer.logger.Warn("an account has no attribute that tells when its password changes; refresh tokens of such accounts end 24 hours after the login",
			zap.Strings("attributes", l.markers()))
	}
	return ""
}

// attributeName is that of an attribute: a short name or a numeric OID (RFC 4512,
// section 1.4).
var attributeName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)$`)

func (l *Directory) checkMarker() error {
	switch {
	case l.PasswordChanged == "":
		return nil
	case !attributeName.MatchString(l.PasswordChanged):
		return fmt.Errorf("password_changed '%.100s' is not an attribute; write its name, as in `password_changed shadowLastChange`", l.PasswordChanged)
	case l.BindDN == "":
		return errors.New("password_changed is without a bind_dn; write one, since the attribute is looked up at each request")
	}
	return nil
}
