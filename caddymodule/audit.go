package caddymodule

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The events of the audit log, which are the message and the field "event" of a
// line. Package audit has those of pulls. All lines have the same fields: event,
// account, directory, access_token (its ID), client_ip, group (of a path below /v2/)
// and reason. Unknown values are empty. Refusals are warnings.
const (
	auditLogin        = "login"         // info; debug for a login that each request repeats
	auditLoginRefused = "login refused" // the account as it was given, see [access.Accounts.ShownName]
	auditThrottled    = "throttled"     // not checked: too many failed, or are being checked
	auditTokenRefused = "token refused" // info if the token has expired
	auditDenied       = "denied"        // an authenticated or anonymous caller lacks the right
	auditPeerRefused  = "peer refused"  // a request without a valid token of a node, or one too many
)

// auditLine has the fields of a line that do not depend on the request alone.
type auditLine struct {
	event, account, directory, token, reason string
}

// auditor writes the audit lines of a request. It can be used after the end of the
// request.
type auditor struct {
	logger        *zap.Logger
	client, group string
}

func (ex *exchange) auditor() auditor {
	return auditor{ex.handler.audit, ex.rec.Address, ex.route.group}
}

// record writes a line of the audit log, which is the logger of the module with the
// suffix ".audit". No field may contain a secret.
func (a auditor) record(level zapcore.Level, line auditLine) {
	checked := a.logger.Check(level, line.event)
	if checked == nil {
		return
	}
	checked.Write(zap.String("event", line.event), zap.String("account", line.account), zap.String("directory", line.directory),
		zap.String("access_token", line.token), zap.String("client_ip", a.client), zap.String("group", a.group), zap.String("reason", line.reason))
}
