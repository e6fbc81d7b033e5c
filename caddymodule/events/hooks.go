package events

import (
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// failingInterval is the time between two events about a storage that fails.
const failingInterval = time.Minute

// StorageHooks returns hooks that call next and publish the events of a storage. The
// name is that of the storage. Next must have the hooks Healed, Trimmed and
// StorageError.
func StorageHooks(source Source, name string, next blobcache.Hooks) blobcache.Hooks {
	hooks := next
	hooks.Healed = func(d digest.Digest, why error) {
		next.Healed(d, why)
		Publish(source, ContentDamaged, map[string]any{"storage": name, "digest": d.String(), "error": textOf(why)})
	}
	hooks.Trimmed = func(group string, links int, size int64) {
		next.Trimmed(group, links, size)
		Publish(source, QuotaTrimmed, map[string]any{"group": group, "links": links, "bytes": size})
	}
	failing := rate.Sometimes{Interval: failingInterval}
	hooks.StorageError = func(op string, err error) {
		next.StorageError(op, err)
		failing.Do(func() {
			Publish(source, StorageFailing, map[string]any{"storage": name, "operation": op, "error": textOf(err)})
		})
	}
	return hooks
}

// UpstreamHooks returns hooks that call next and publish the changes of an address of an
// upstream. Next must have the hook Changed.
func UpstreamHooks(source Source, next upstream.Hooks) upstream.Hooks {
	hooks := next
	hooks.Changed = func(change upstream.Change, state upstream.State) {
		next.Changed(change, state)
		data := map[string]any{"upstream": state.Upstream, "endpoint": state.Host}
		switch change {
		case upstream.WentDown:
			data["error"] = state.LastError
			Publish(source, UpstreamDown, data)
		case upstream.CameUp:
			Publish(source, UpstreamUp, data)
		case upstream.BudgetLow:
			data["remaining"], data["limit"], data["window"] = state.Budget.Remaining, state.Budget.Limit, state.Budget.Window.String()
			Publish(source, BudgetLow, data)
		}
	}
	return hooks
}

// MovedHook returns a hook that publishes the tags that have moved in a storage, for a
// site. It is that of [pullthrough.Hooks].
func MovedHook(source Source, site string) func(scope, tag string, from, to index.Ref) {
	return func(scope, tag string, from, to index.Ref) {
		group, rest, _ := strings.Cut(scope, "/_/") // see [index.Index]
		registry, repository, _ := strings.Cut(rest, "/")
		registry, _, _ = strings.Cut(registry, "@") // the identity of its login
		Publish(source, TagMoved, map[string]any{
			"site": site, "group": group, "upstream": registry, "repository": repository, "tag": tag,
			"digest": to.Digest.String(), "previous": from.Digest.String(), "media_type": to.MediaType,
		})
	}
}

// TokenHook returns a hook that publishes the access tokens that were made or revoked
// in a storage of Caddy, depending on the name.
func TokenHook(source Source, name string) func(token accesstoken.Token, by string) {
	return func(token accesstoken.Token, by string) {
		var owner accesstoken.Owner
		if token.Owner != nil {
			owner = *token.Owner
		}
		Publish(source, name, map[string]any{
			"site": token.Site, "access_token": token.ID, "kind": string(token.Kind), "name": token.Name, "groups": strings.Join(token.Groups, ","),
			"account": owner.Name, "directory": owner.Directory, "made_with": token.MadeWith, "by": by,
		})
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
