package record

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// placeholderPrefix is that of the names of placeholders.
const placeholderPrefix = "http.dependency_proxy."

// Provide makes the record known to the replacer in the context of a request, for
// access logs. The placeholders are empty before the end of the request, because
// another goroutine, such as that of a login, may use the replacer meanwhile:
//
//	{http.dependency_proxy.group}         the path of the group
//	{http.dependency_proxy.image}         the image as the client calls it, without the tag
//	{http.dependency_proxy.upstream}      the name of the upstream
//	{http.dependency_proxy.cache_status}  hit, miss, joined, revalidated or stale
//	{http.dependency_proxy.account}       DIRECTORY:NAME
//	{http.dependency_proxy.rule}          the rule by which the client may or may not pull
func (r *Request) Provide(ctx context.Context) {
	if replacer, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		replacer.Map(r.placeholder)
	}
}

// placeholder returns the value of a placeholder.
func (r *Request) placeholder(key string) (value any, known bool) {
	name, ours := strings.CutPrefix(key, placeholderPrefix)
	if !ours {
		return nil, false
	}
	if atomic.LoadUint32(&r.ended) == 0 {
		return "", true
	}
	switch name {
	case "group":
		return r.Group, true
	case "image":
		return r.Image, true
	case "upstream":
		return r.Upstream, true
	case "cache_status":
		return r.CacheStatus(), true
	case "account":
		return r.account(), true
	case "rule":
		return r.Rule, true
	}
	return nil, false
}

// CacheStatus returns the result of a request for content, or "" if it has sent none.
func (r *Request) CacheStatus() string {
	if r.Result < Hit || r.Result > Stale {
		return ""
	}
	return r.Result.String()
}

// account returns the account as the configuration calls it.
func (r *Request) account() string {
	if r.Account == "" {
		return ""
	}
	return r.Directory + ":" + r.Account
}

// LogAccessToken adds the ID of the access token of a request to its line in the access
// log, unless it is empty. The token need not be valid.
func LogAccessToken(ctx context.Context, id string) {
	if id == "" {
		return
	}
	if fields, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		fields.Set(zap.String("access_token", id))
	}
}
