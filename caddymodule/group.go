package caddymodule

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
)

// crossOrigin prevents pages of other sites from using a browser's login.
var crossOrigin = http.NewCrossOriginProtection()

// serveGroup answers requests for the page of the site, and for the page, the cache and
// the access tokens of a group. Browsers and scripts send them, with Basic authentication or a token.
func (ex *exchange) serveGroup() *apiError {
	h := ex.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := crossOrigin.Check(ex.r); err != nil {
		ex.rec.Denial = "page of another site"
		return refuse(denied, "the request was sent by a page of another site")
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
	if ex.route.kind == sitePageKind {
		if ex.caller.Anonymous {
			ex.basicChallenge()
			return refuse(unauthorized, "log in with an account")
		}
		return ex.servePage()
	}
	if err := ex.authorize(ex.route.requiredRole()); err != nil {
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

// servePurge removes what is cached for the group and its subgroups, or for one
// image of the group. Content that no other group has is deleted from disk soon
// after the response. A query with anything but a single image is rejected, so that
// a mistake in a script cannot purge the whole group instead of one image.
func (ex *exchange) servePurge() *apiError {
	query, err := admin.ParseQuery(ex.r, "image")
	if err != nil {
		return ex.requestError(err)
	}
	ctx, group, image := ex.r.Context(), ex.route.group, query.Get("image")
	if query.Has("image") && image == "" {
		return refuse(badRequest, "the parameter image is empty; name an image, or leave the parameter out to purge all images of the group")
	}
	var links int
	if image == "" {
		links, err = ex.handler.quotas.Purge(ctx, group)
	} else {
		rt, refusal := parseResource(group, image+"/tags/list")
		if refusal != nil {
			return refusal
		}
		repo, refusal := ex.handler.repository(rt, "", 0, false)
		if refusal != nil {
			return refusal
		}
		links, err = ex.handler.quotas.PurgeScope(ctx, repo.scope)
	}
	ex.handler.logger.Info("purged", zap.String("group", group), zap.String("image", image),
		zap.String("account", ex.caller.Name), zap.String("directory", ex.caller.Directory), zap.Int("links", links), zap.Error(err))
	if err != nil {
		e := refuse(unavailable, "purge is incomplete; try again")
		e.cause, e.retryAfter = err, retrySoon
		return e
	}
	return ex.sendValue(http.StatusAccepted, map[string]int{"purged": links})
}
