package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The events of the audit log: its message and its field "event". Each line
// has the same fields: event, account, directory, access_token (its id),
// client_ip, group (of a path under /v2/) and reason; what is not known is
// empty. Refusals are warnings.
const (
	auditLogin        = "login"         // info; debug where one repeats itself with each request
	auditLoginRefused = "login refused" // the account as it was given, see [access.Accounts.ShownName]
	auditThrottled    = "throttled"     // not checked: too many were wrong, or are being checked
	auditTokenRefused = "token refused" // info if it is merely old
	auditDenied       = "denied"        // known who, and not allowed
)

// auditLine is one line of the audit log, but for what the request tells.
type auditLine struct {
	event, account, directory, token, reason string
}

// record writes a line of the audit log, whose logger is the module's with
// ".audit" behind it. No field may hold a secret.
func (ex *exchange) record(level zapcore.Level, line auditLine) { ex.auditor().record(level, line) }

// auditor writes the audit lines of a request, also after its end.
type auditor struct {
	logger        *zap.Logger
	client, group string
}

func (ex *exchange) auditor() auditor { return auditor{ex.h.audit, ex.clientIP(), ex.route.group} }

func (a auditor) record(level zapcore.Level, line auditLine) {
	checked := a.logger.Check(level, line.event)
	if checked == nil {
		return
	}
	checked.Write(zap.String("event", line.event), zap.String("account", line.account), zap.String("directory", line.directory),
		zap.String("access_token", line.token), zap.String("client_ip", a.client), zap.String("group", a.group), zap.String("reason", line.reason))
}

// clientIP is the client's address as Caddy determined it, from the headers of
// a proxy in front too if Caddy trusts it.
func (ex *exchange) clientIP() string {
	address, _ := caddyhttp.GetVar(ex.r.Context(), caddyhttp.ClientIPVarKey).(string)
	return address
}

// logAccessToken tells the access log which access token a request was made with.
func logAccessToken(r *http.Request, id string) {
	fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if ok && id != "" {
		fields.Set(zap.String("access_token", id))
	}
}
