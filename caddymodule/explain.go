package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// explain decides about a pull as if somebody had asked for it; an empty name
// is nobody. It goes the way that a request goes, and asks no upstream.
func (h *Handler) explain(ctx context.Context, name, image string) (admin.Explanation, error) {
	rt, err := h.readImage(ctx, image)
	if err != nil {
		return admin.Explanation{}, err
	}
	repo, refusal := h.repository(rt, "")
	if refusal != nil {
		return admin.Explanation{}, access.RequestError(refusal.message)
	}
	e := admin.Explanation{
		Group: rt.group, Image: rt.image, Upstream: repo.upstream, Repository: repo.name, Reference: rt.reference(),
	}
	visibility, err := h.access.VisibilityOf(ctx, rt.group)
	if err == nil {
		e.Visibility = cmp.Or(visibility, directory.Private)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	e.Warning = h.publicLogin(rt.group, e.Visibility, repo.upstream)
	who, done, err := h.explainAccount(ctx, &e, name)
	if done || err != nil {
		return e, err
	}
	v, err := h.access.Decide(ctx, who, rt.group, directory.Member)
	e.Allowed, e.Rule = v.Allowed, v.Rule
	if limit := h.limits.Decide(rt.group, access.NewImage(repo.upstream, repo.name, rt.tag)); v.Allowed {
		e.Limits = limit.Rules
		if !limit.Allowed {
			e.Allowed, e.Rule = false, limit.Rule
		}
	}
	return e, err
}

// explainAccount finds out who somebody is. It is done if that decides already.
func (h *Handler) explainAccount(ctx context.Context, e *admin.Explanation, name string) (who access.Caller, done bool, err error) {
	if name == "" {
		return access.Caller{Anonymous: true}, false, nil
	}
	who, err = h.accounts.Find(ctx, "--as", name)
	switch {
	case errors.Is(err, directory.ErrBlocked):
		e.Rule = "blocked account"
		return who, true, nil
	case errors.Is(err, directory.ErrWrongPassword):
		e.Rule = strings.TrimPrefix(err.Error(), directory.ErrWrongPassword.Error()+": ") // of an access token
		return who, true, nil
	case errors.Is(err, directory.ErrUnknownAccount):
		e.Rule = "unknown account"
		return who, true, nil
	case err != nil:
		return who, true, err
	}
	role := directory.NoRole
	if e.Visibility != "" {
		if role, err = h.access.RoleOf(ctx, who, e.Group); err != nil {
			return who, true, err
		}
	}
	e.Account = &admin.ExplainedAccount{
		Name: who.Name, Directory: who.Directory, AccessToken: who.Token, Admin: who.Admin,
		Role: role.String(), OnlyGroups: who.Only, PullOnly: who.PullOnly, Misspelled: h.accounts.Misspelled(who.ID()),
	}
	return who, false, nil
}

// readImage reads an image as people write it: GROUP/IMAGE[:TAG|@DIGEST], with
// /dependency_proxy/containers/ between the two or a slash, and with the site's
// host before it or without.
func (h *Handler) readImage(ctx context.Context, text string) (route, error) {
	name, reference, pinned := strings.Cut(text, "@")
	if tag := strings.LastIndexByte(name, ':'); tag > strings.LastIndexByte(name, '/') {
		if !pinned {
			reference = name[tag+1:]
		}
		name = name[:tag]
	} else if !pinned {
		reference = "latest"
	}
	group, image, err := h.splitImage(ctx, name)
	if err != nil {
		return route{}, err
	}
	if pinned && digest.Digest(reference).Validate() != nil {
		return route{}, access.Errorf("'%s' is not a digest", reference)
	}
	rt, refusal := parseResource(group, image+"/manifests/"+reference)
	if refusal != nil {
		return route{}, access.Errorf("'%s' cannot be pulled: %s", text, refusal.message)
	}
	return rt, nil
}

func (h *Handler) splitImage(ctx context.Context, name string) (group, image string, err error) {
	group, image, full := strings.Cut(name, infix)
	if full {
		host, rest, ok := strings.Cut(group, "/")
		if ok && (strings.ContainsAny(host, ".:") || host == "localhost") && !h.exists(ctx, group) {
			group = rest
		}
		return group, image, nil
	}
	group, image, ok := strings.Cut(name, "/")
	if !ok || group == "" || image == "" {
		return "", "", access.RequestError("write the image with its group, as in acme/alpine:3.20")
	}
	// The longest group that there is; the first component if there is none.
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' && h.exists(ctx, name[:i]) {
			return name[:i], name[i+1:], nil
		}
	}
	return group, image, nil
}

// exists tells of a group. What cannot be told now is found out again, and
// reported, when the pull is decided about.
func (h *Handler) exists(ctx context.Context, group string) bool {
	_, err := h.access.VisibilityOf(ctx, group)
	return err == nil
}
