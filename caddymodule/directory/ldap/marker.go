package ldap

import (
	"time"

	"github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"
)

// unmarkedRefresh is how long refresh tokens of an account are valid if the server does
// not tell when its password changes.
const unmarkedRefresh = 24 * time.Hour

// defaultMarkers are the attributes that tell when a password was changed: of servers with
// a password policy after draft-behera-ldap-password-policy, and of Active Directory.
var defaultMarkers = []string{"pwdChangedTime", "pwdLastSet"}

// markers returns the attributes to look at, of which the first that an entry has counts.
// It returns none without a service account, since the account is not looked up again.
func (l *Directory) markers() []string {
	switch {
	case l.BindDN == "":
		return nil
	case l.PasswordChanged != "":
		return []string{l.PasswordChanged}
	}
	return defaultMarkers
}

// readMarker returns a text that changes with the password of an entry, or an empty text.
// It logs each attribute that serves for this once.
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
