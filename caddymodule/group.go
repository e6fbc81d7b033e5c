package caddymodule

import (
	"encoding/json"
	"net/http"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// What is about a group rather than about its images is for people with a
// browser and for their scripts: they log in by Basic, or with a token.

// wanted is the role that a group's paths take.
func (rt *route) wanted() directory.Role {
	if rt.kind == tokensKind {
		return directory.Owner
	}
	return directory.Maintainer
}

// crossOrigin keeps other sites' pages from using a browser's login here.
var crossOrigin = http.NewCrossOriginProtection()

func (ex *exchange) serveGroup() *apiError {
	h := ex.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := crossOrigin.Check(ex.r); err != nil {
		return refuse(denied, "another site's page has sent this request")
	}
	if err := ex.locate(); err != nil {
		return err
	}
	if err := ex.identify(); err != nil {
		if err.problem == unauthorized {
			ex.basicChallenge()
		}
		return err
	}
	if err := ex.authorize(ex.route.wanted()); err != nil {
		return err
	}
	switch ex.route.kind {
	case purgeKind:
		return ex.servePurge()
	case tokensKind:
		return ex.serveGroupTokens()
	}
	return ex.servePage()
}

// servePurge forgets what is cached for the group and its subgroups, or for one
// image of the group. The next pull asks upstream for all of it; content that
// no other group has goes from disk soon after the answer. A query that is not
// exactly one image or nothing is refused: what a script meant as one image must
// not become the whole group.
func (ex *exchange) servePurge() *apiError {
	query, err := admin.ParseQuery(ex.r, "image")
	if err != nil {
		return ex.fromOrder(err)
	}
	ctx, group, image := ex.r.Context(), ex.route.group, query.Get("image")
	if query.Has("image") && image == "" {
		return refuse(badRequest, "the parameter image is empty; name an image, or leave the parameter out to purge all images of the group")
	}
	var links int
	if image == "" {
		links, err = ex.h.quotas.Purge(ctx, group)
		ex.h.cache.lists.ForgetGroup(group)
	} else {
		rt, refusal := parseResource(group, image+"/tags/list")
		if refusal != nil {
			return refusal
		}
		repo, refusal := ex.h.repository(rt, "")
		if refusal != nil {
			return refusal
		}
		links, err = ex.h.quotas.PurgeScope(ctx, repo.scope)
		ex.h.cache.lists.ForgetScope(repo.scope)
	}
	ex.h.logger.Info("purged", zap.String("group", group), zap.String("image", image),
		zap.String("account", ex.caller.Name), zap.String("directory", ex.caller.Directory), zap.Int("links", links), zap.Error(err))
	if err != nil {
		e := refuse(unavailable, "not all of it could be purged; try again")
		e.cause, e.retryAfter = err, retrySoon
		return e
	}
	return ex.sendValue(http.StatusAccepted, map[string]int{"purged": links})
}

func (ex *exchange) sendValue(status int, value any) *apiError {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err) // numbers, strings and times always marshal
	}
	ex.sendJSON(status, body, "application/json")
	return nil
}
