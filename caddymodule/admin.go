package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI is what Caddy's admin endpoint answers about the sites that run. The
// endpoint is for whoever may do everything; it checks nobody.
type adminAPI struct{}

// adminCall answers a request. What is no [caddy.APIError] is turned into one
// by adminError.
type adminCall func(r *http.Request) (status int, answer any, err error)

// adminRoutes are the paths, with what each does by method. One that ends with
// a slash has an argument behind it.
var adminRoutes = map[string]map[string]adminCall{
	tokensPath:       {http.MethodGet: adminListTokens, http.MethodPost: adminMakeToken},
	tokensPath + "/": {http.MethodDelete: adminRevokeToken},
	explainPath:      {http.MethodGet: adminExplain},
	cachePath:        {http.MethodGet: adminCache},
	scrubPath:        {http.MethodPost: adminScrub},
}

const (
	tokensPath  = "/dependency_proxy/tokens"
	explainPath = "/dependency_proxy/explain"
	cachePath   = "/dependency_proxy/cache"
	scrubPath   = "/dependency_proxy/cache/scrub"

	// maxAdminBody is how much of a request is read, in bytes.
	maxAdminBody = 64 << 10
)

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.dependency_proxy",
		New: func() caddy.Module { return adminAPI{} },
	}
}

// Routes implements [caddy.AdminRouter].
func (adminAPI) Routes() []caddy.AdminRoute {
	var routes []caddy.AdminRoute
	for pattern, calls := range adminRoutes {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(
			func(w http.ResponseWriter, r *http.Request) error { return serveAdmin(w, r, calls) })})
	}
	return routes
}

func serveAdmin(w http.ResponseWriter, r *http.Request, calls map[string]adminCall) error {
	w.Header().Set("Cache-Control", "no-store")
	call := calls[r.Method]
	if call == nil {
		allowed := strings.Join(slices.Sorted(maps.Keys(calls)), ", ")
		w.Header().Set("Allow", allowed)
		return refuseAdmin(http.StatusMethodNotAllowed, "the method %s is not one of %s", r.Method, allowed)
	}
	status, answer, err := call(r)
	if err != nil {
		return adminError(err)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
	return nil
}

func refuseAdmin(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// adminError gives an error its status.
func adminError(err error) error {
	var known caddy.APIError
	var bad access.RequestError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &bad):
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, accesstoken.ErrUnavailable):
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
	}
	return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
}

// adminQuery are the parameters of a request, of which each may be there once.
func adminQuery(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, access.RequestError("the query cannot be read")
	}
	for name, values := range query {
		if !slices.Contains(known, name) {
			return nil, access.Errorf("the parameter '%s' is none of %s", name, strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, access.Errorf("the parameter '%s' is there twice", name)
		}
	}
	return query, nil
}

// readOrder reads a body of JSON without a field that means nothing. A browser
// sends no JSON to elsewhere without asking first.
func readOrder(r *http.Request, into any) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return refuseAdmin(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAdminBody+1))
	if err != nil {
		return access.RequestError("the body cannot be read")
	}
	if len(body) > maxAdminBody {
		return refuseAdmin(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", maxAdminBody)
	}
	if err := caddy.StrictUnmarshalJSON(body, into); err != nil {
		return access.Errorf("the body is no such request: %v", err)
	}
	return nil
}

// adminSites are the running sites of a name, or all of them if name is nil.
func adminSites(name *string) ([]*Handler, error) {
	handlers := running.now()
	if len(handlers) == 0 {
		return nil, refuseAdmin(http.StatusNotFound, "no site with dependency_proxy is running")
	}
	if name == nil {
		return handlers, nil
	}
	handlers = slices.DeleteFunc(handlers, func(h *Handler) bool { return h.Name != *name })
	if len(handlers) == 0 {
		return nil, refuseAdmin(http.StatusNotFound, "no site of the name '%s' is running", *name)
	}
	return handlers, nil
}

// adminSite is the running site that an access token is to be made for.
func adminSite(name *string) (*Handler, error) {
	handlers, err := adminSites(name)
	if err != nil {
		return nil, err
	}
	for _, h := range handlers {
		if h.Name != handlers[0].Name {
			return nil, access.Errorf("several sites are running; say which by its name, as in '%s' or '%s'", handlers[0].Name, h.Name)
		}
	}
	return handlers[0], nil
}

// siteOf is the site that a query names, if it names one.
func siteOf(query url.Values) *string {
	if !query.Has("site") {
		return nil
	}
	name := query.Get("site")
	return &name
}

// Interface guards
var (
	_ caddy.Module      = adminAPI{}
	_ caddy.AdminRouter = adminAPI{}
)
