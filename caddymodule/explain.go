package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// explain decides about a pull as the handler decides about a request, without
// asking an upstream. The empty name stands for an anonymous client.
func (h *Handler) explain(ctx context.Context, name, image string) (admin.Explanation, error) {
	rt, err := h.parseImage(ctx, image)
	if err != nil {
		return admin.Explanation{}, err
	}
	repo, refusal := h.repository(rt, "", 0, false)
	if refusal != nil {
		return admin.Explanation{}, access.RequestError(refusal.message)
	}
	e := admin.Explanation{
		Group: rt.group, Image: rt.image, Upstream: repo.upstream, Repository: repo.name, Reference: rt.reference(), Offline: repo.mirrors.IsOffline(),
	}
	visibility, err := h.policy.VisibilityOf(ctx, rt.group)
	if err == nil {
		e.Visibility = cmp.Or(visibility, directory.Private)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	e.Warning = h.publicLoginWarning(rt.group, e.Visibility, repo.upstream)
	caller, done, err := h.explainAccount(ctx, &e, name)
	if done || err != nil {
		return e, err
	}
	v, err := h.policy.Decide(ctx, caller, rt.group, directory.Member)
	e.Allowed, e.Rule = v.Allowed, v.Rule
	if limit := h.limits.Decide(rt.group, access.NewImage(repo.upstream, repo.name, rt.tag)); v.Allowed {
		e.Limits = limit.Rules
		if !limit.Allowed {
			e.Allowed, e.Rule = false, limit.Rule
		}
	}
	return e, err
}

// warm returns a function that pulls an image through the cache. The limits of images apply as they
// do to all accounts.
func (h *Handler) warm(ctx context.Context, image string) (admin.Warm, error) {
	rt, err := h.parseImage(ctx, image)
	if err != nil {
		return nil, err
	}
	if _, err := h.policy.VisibilityOf(ctx, rt.group); err != nil {
		return nil, fmt.Errorf("group %s: %w", rt.group, err)
	}
	repo, refusal := h.repository(rt, "", 0, false)
	if refusal != nil {
		return nil, access.RequestError(refusal.message)
	}
	if limit := h.limits.Decide(rt.group, access.NewImage(repo.upstream, repo.name, rt.tag)); !limit.Allowed {
		return nil, access.Errorf("'%s' cannot be pulled: the limits of the group exclude it: %s", image, limit.Rule)
	}
	return func(ctx context.Context, platforms []pullthrough.Platform, report func(pullthrough.Progress)) error {
		return repo.content.Warm(ctx, rt.tag, rt.digest, platforms, report)
	}, nil
}

// explainAccount looks up an account and describes it. It reports done if the
// account alone decides about the pull.
func (h *Handler) explainAccount(ctx context.Context, e *admin.Explanation, name string) (caller access.Caller, done bool, err error) {
	if name == "" {
		return access.Caller{Anonymous: true}, false, nil
	}
	caller, err = h.accounts.Find(ctx, "--as", name)
	switch {
	case errors.Is(err, directory.ErrBlocked):
		e.Rule = "blocked account"
		return caller, true, nil
	case errors.Is(err, directory.ErrWrongPassword):
		e.Rule = strings.TrimPrefix(err.Error(), directory.ErrWrongPassword.Error()+": ") // of an access token
		return caller, true, nil
	case errors.Is(err, directory.ErrUnknownAccount):
		e.Rule = "unknown account"
		return caller, true, nil
	case err != nil:
		return caller, true, err
	}
	role := directory.NoRole
	if e.Visibility != "" {
		if role, err = h.policy.RoleOf(ctx, caller, e.Group); err != nil {
			return caller, true, err
		}
	}
	e.Account = &admin.ExplainedAccount{
		Name: caller.Name, Directory: caller.Directory, AccessToken: caller.Token, Admin: caller.Admin,
		Role: role.String(), OnlyGroups: caller.Only, PullOnly: caller.PullOnly, Misspelled: h.accounts.Misspelled(caller.ID()),
	}
	return caller, false, nil
}

// parseImage parses the name of an image, GROUP/IMAGE[:TAG|@DIGEST]. The group may
// have a host before it, and /dependency_proxy/containers/ after it instead of the
// slash.
func (h *Handler) parseImage(ctx context.Context, text string) (route, error) {
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
		return route{}, access.Errorf("invalid digest '%s'", reference)
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
		if ok && (strings.ContainsAny(host, ".:") || host == "localhost") && !h.groupExists(ctx, group) {
			group = rest
		}
		return group, image, nil
	}
	group, image, ok := strings.Cut(name, "/")
	if !ok || group == "" || image == "" {
		return "", "", access.RequestError("the image has no group; write one, as in acme/alpine:3.20")
	}
	// The group is the longest one that exists or else the first component.
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' && h.groupExists(ctx, name[:i]) {
			return name[:i], name[i+1:], nil
		}
	}
	return group, image, nil
}

// groupExists reports whether a group exists. It ignores failures to find out, which
// the decision about the pull meets and reports again.
func (h *Handler) groupExists(ctx context.Context, group string) bool {
	_, err := h.policy.VisibilityOf(ctx, group)
	return err == nil
}
