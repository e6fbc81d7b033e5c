package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// exchange is a request in progress.
type exchange struct {
	handler *Handler
	w       http.ResponseWriter
	r       *http.Request
	route   route
	origin  origin        // set by locate
	caller  access.Caller // set by identify, or by the token service

	insider bool // set by authorize: the caller may know which rule denies access

	rec  record.Request // completed by end
	pull *traces.Pull   // nil unless the request is traced
}

// begin returns the exchange of a request, and begins its record.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, rt route) *exchange {
	ex := &exchange{handler: h, r: r, route: rt, rec: record.Request{
		Kind: recorded[rt.kind], Head: r.Method == http.MethodHead, Group: rt.group, Image: rt.image, Tag: rt.tag, Digest: rt.digest,
	}}
	ex.rec.Address, _ = caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	ex.w = ex.rec.Begin(w)
	ex.rec.Provide(r.Context())
	if ctx, pull := traces.StartPull(r.Context(), ex.rec.Kind); pull != nil {
		ex.pull, ex.r = pull, r.WithContext(ctx)
	}
	return ex
}

// end completes the record of the request and shows it to its consumers. A response
// was aborted if the handler panics.
func (ex *exchange) end(aborted bool) {
	rec, who := &ex.rec, &ex.caller
	rec.Account, rec.Directory, rec.AccessToken, rec.Anonymous = who.Name, who.Directory, who.Token, who.Anonymous
	rec.End(ex.r.Context(), aborted)
	ex.pull.End(rec)
	for _, consume := range ex.handler.consumers {
		consume(rec)
	}
}

var apiVersion = []string{"registry/2.0"}

// serveRegistry answers requests below /v2/.
func (ex *exchange) serveRegistry() *apiError {
	if err := ex.locate(); err != nil {
		return err
	}
	if err := ex.identify(); err != nil {
		return err
	}
	switch ex.route.kind {
	case pingKind:
		ex.w.Header()["Cache-Control"] = noTransform
		ex.rec.Result = record.OK
		ex.send(http.StatusOK, jsonType, []byte("{}"))
		return nil
	case unknownKind:
		return refuse(nameUnknown, "this registry has no such path; images are at %s/GROUP%sIMAGE", ex.origin.registry, infix)
	}
	if err := ex.authorize(directory.Member); err != nil {
		return err
	}
	var accept mediatype.Accept
	forced := false
	if ex.route.tag != "" {
		accept = mediatype.ParseAccept(ex.r.Header.Values("Accept"))
		forced = freshness.WantsRefresh(ex.r.Header) && ex.handler.policy.Maintains(ex.r.Context(), ex.caller, ex.rec.Address, ex.route.group)
	}
	ns := ""
	if ex.r.URL.RawQuery != "" {
		ns = ex.r.URL.Query().Get("ns")
	}
	repo, err := ex.handler.repository(ex.route, ns, accept, forced)
	if err != nil {
		return err
	}
	ex.rec.Upstream, ex.rec.Repository, ex.rec.Scope = repo.upstream, repo.name, repo.scope
	if err := ex.checkLimits(&repo); err != nil {
		return err
	}
	return ex.serveContent(&repo)
}

// serveContent answers a request for what a repository has, if the client may have it.
func (ex *exchange) serveContent(repo *repository) *apiError {
	if ex.r.Header["Via"] != nil {
		if err := repo.mirrors.CheckVia(ex.r.Header); err != nil {
			return ex.upstreamError(repo, err, manifestUnknown, unavailable)
		}
		ex.r = ex.r.WithContext(upstream.WithVia(ex.r.Context(), ex.r.Header))
	}
	switch ex.route.kind {
	case manifestKind:
		return ex.serveManifest(repo)
	case blobKind:
		return ex.serveBlob(repo)
	case tagsKind:
		return ex.serveTags(repo)
	}
	return ex.serveReferrers(repo)
}

// setCaller sets the caller, and the placeholder from which Caddy's access log takes
// the account.
func (ex *exchange) setCaller(caller access.Caller) {
	ex.caller = caller
	if repl, ok := ex.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && !caller.Anonymous {
		repl.Set("http.auth.user.id", caller.Name)
	}
}

// actions describe, in a denial, what a role is required for.
var actions = [...]string{directory.Member: "pull from it", directory.Maintainer: "purge its cache", directory.Owner: "manage its access tokens"}

// authorize returns an error unless the caller has at least the role in the group.
// Only insiders learn which rule denies access.
func (ex *exchange) authorize(role directory.Role) *apiError {
	v, err := ex.handler.policy.Decide(directory.WithAsker(ex.r.Context(), ex.caller.Asker(ex.rec.Address)), ex.caller, ex.route.group, role)
	if err != nil {
		return ex.handler.unavailable("decide about a group", err)
	}
	ex.rec.Rule = v.Rule
	if ex.insider = v.Insider; v.Allowed {
		return nil
	}
	ex.rec.Denial = v.Rule
	ex.auditor().record(zap.WarnLevel, auditLine{auditDenied, ex.caller.Name, ex.caller.Directory, ex.caller.Token, v.Rule})
	e := refuse(denied, "group %s does not exist, or you may not %s; ask its owner to make %s one of its %ss", ex.route.group, actions[role], ex.caller.ID(), role)
	if ex.caller.Token != "" {
		e = refuse(denied, "group %s does not exist, or the access token %s may not %s", ex.route.group, ex.caller.Token, actions[role])
	}
	if ex.caller.Anonymous {
		e = refuse(denied, "you are not logged in, or group %s does not exist; log in with: docker login %s", ex.route.group, ex.origin.registry)
	}
	if ex.insider {
		e.detail = ruleDetail{v.Rule}
	}
	return e
}

// ruleDetail is the detail of a denial that insiders receive.
type ruleDetail struct {
	Rule string `json:"rule"`
}

// checkLimits returns an error if the allow and deny patterns exclude the image,
// for admins and for cached images too. The caller may pull from the group, so it
// may learn which group excludes the image.
func (ex *exchange) checkLimits(repo *repository) *apiError {
	if len(ex.handler.limits) == 0 {
		return nil
	}
	image := access.NewImage(repo.upstream, repo.name, ex.route.tag)
	v := ex.handler.limits.Decide(ex.route.group, image)
	if v.Allowed {
		return nil
	}
	ex.rec.Rule, ex.rec.Denial = v.Rule, "limits of images"
	ex.auditor().record(zap.WarnLevel, auditLine{auditDenied, ex.caller.Name, ex.caller.Directory, ex.caller.Token, v.Rule})
	e := refuse(denied, "%s cannot be pulled through group %s: the limits of group %s exclude it; the owner of group %s decides what they allow",
		image, ex.route.group, v.Group, v.Group)
	if ex.insider {
		e.detail = ruleDetail{v.Rule}
	}
	return e
}
