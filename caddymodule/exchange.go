package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// exchange is one request and what has become known about it.
type exchange struct {
	h      *Handler
	w      http.ResponseWriter
	r      *http.Request
	route  route
	origin origin
	caller access.Caller

	insider bool // the caller may know which rule denies, see verdict
}

var apiVersion = []string{"registry/2.0"}

// serveRegistry answers what is under /v2/: first who, then whether, then what.
func (ex *exchange) serveRegistry() *apiError {
	if err := ex.locate(); err != nil {
		return err
	}
	if err := ex.identify(); err != nil {
		return err
	}
	switch ex.route.kind {
	case pingKind:
		return ex.servePing()
	case unknownKind:
		return refuse(nameUnknown, "this registry has no such path; images are at %s/GROUP%sIMAGE", ex.origin.registry, infix)
	}
	if err := ex.authorize(directory.Member); err != nil {
		return err
	}
	repo, err := ex.h.repository(ex.route, ex.r.URL.Query().Get("ns"))
	if err != nil {
		return err
	}
	if err := ex.checkLimits(repo); err != nil {
		return err
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

func (ex *exchange) servePing() *apiError {
	h := ex.w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{"2"}
	h["Cache-Control"] = noTransform
	ex.w.WriteHeader(http.StatusOK)
	if ex.r.Method != http.MethodHead {
		_, _ = ex.w.Write([]byte("{}"))
	}
	return nil
}

// identified puts the account where Caddy's access log looks for it.
func (ex *exchange) identified(who access.Caller) {
	ex.caller = who
	if repl, ok := ex.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && !who.Anonymous {
		repl.Set("http.auth.user.id", who.Name)
	}
}

// deeds are what takes a role, in the words of a denial.
var deeds = [...]string{directory.Member: "pull from it", directory.Maintainer: "see its page or purge its cache", directory.Owner: "manage its access tokens"}

// authorize decides whether the caller has a role in the group, now. Why not
// is told to insiders alone.
func (ex *exchange) authorize(want directory.Role) *apiError {
	v, err := ex.h.access.Decide(directory.WithAsker(ex.r.Context(), ex.caller.Asker(ex.clientIP())), ex.caller, ex.route.group, want)
	if err != nil {
		return ex.h.cannotTell("decide about a group", err)
	}
	if ex.insider = v.Insider; v.Allowed {
		return nil
	}
	ex.record(zap.WarnLevel, auditLine{auditDenied, ex.caller.Name, ex.caller.Directory, ex.caller.Token, v.Rule})
	e := refuse(denied, "group %s does not exist, or you may not %s; ask its owner to make %s one of its %ss", ex.route.group, deeds[want], ex.caller.ID(), want)
	if ex.caller.Token != "" {
		e = refuse(denied, "group %s does not exist, or the access token %s may not %s", ex.route.group, ex.caller.Token, deeds[want])
	}
	if ex.caller.Anonymous {
		e = refuse(denied, "you are not logged in, or group %s does not exist; log in with: docker login %s", ex.route.group, ex.origin.registry)
	}
	if ex.insider {
		e.detail = ruleDetail{v.Rule}
	}
	return e
}

// ruleDetail is the detail of a denial for those who may know it.
type ruleDetail struct {
	Rule string `json:"rule"`
}

// refuse sends an error and logs what only the operator should know.
func (ex *exchange) refuse(e *apiError) {
	if e.cause != nil {
		level := zap.InfoLevel
		if e.problem == badGateway {
			level = zap.WarnLevel
		}
		ex.h.logger.Log(level, "pull failed", zap.String("group", ex.route.group), zap.String("image", ex.route.image),
			zap.Int("status", e.status), zap.Error(e.cause))
	}
	writeError(ex.w, ex.r, e)
}

// checkLimits denies what the limits exclude, to admins too and whether or not it
// is cached. The caller is known to be allowed to pull from the group, so it may
// learn which group excludes the image.
func (ex *exchange) checkLimits(repo *repository) *apiError {
	if len(ex.h.limits) == 0 {
		return nil
	}
	image := access.NewImage(repo.upstream, repo.name, ex.route.tag)
	v := ex.h.limits.Decide(ex.route.group, image)
	if v.Allowed {
		return nil
	}
	ex.record(zap.WarnLevel, auditLine{auditDenied, ex.caller.Name, ex.caller.Directory, ex.caller.Token, v.Rule})
	e := refuse(denied, "%s cannot be pulled through group %s: the limits of group %s exclude it; the owner of group %s decides what they allow",
		image, ex.route.group, v.Group, v.Group)
	if ex.insider {
		e.detail = ruleDetail{v.Rule}
	}
	return e
}
