package admin

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

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

func init() { caddy.RegisterModule(api{}) }

// api is what Caddy's admin endpoint answers about the sites that run. The
// endpoint is for whoever may do everything; it checks nobody.
type api struct{}

// call answers a request. What is no [caddy.APIError] is turned into one
// by statusOf.
type call func(r *http.Request) (status int, answer any, err error)

// calls are the paths, with what each does by method. One that ends with
// a slash has an argument behind it.
var calls = map[string]map[string]call{
	tokensPath:       {http.MethodGet: listTokens, http.MethodPost: createToken},
	tokensPath + "/": {http.MethodDelete: revokeToken},
	explainPath:      {http.MethodGet: explain},
	cachePath:        {http.MethodGet: cacheStatus},
	scrubPath:        {http.MethodPost: scrub},
}

const (
	tokensPath  = "/dependency_proxy/tokens"
	explainPath = "/dependency_proxy/explain"
	cachePath   = "/dependency_proxy/cache"
	scrubPath   = "/dependency_proxy/cache/scrub"

	// maxBody is how much of a request is read, in bytes.
	maxBody = 64 << 10
)

// CaddyModule returns the Caddy module information.
func (api) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.dependency_proxy",
		New: func() caddy.Module { return api{} },
	}
}

// Routes implements [caddy.AdminRouter].
func (api) Routes() []caddy.AdminRoute {
	var routes []caddy.AdminRoute
	for pattern, byMethod := range calls {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(
			func(w http.ResponseWriter, r *http.Request) error { return serveAdmin(w, r, byMethod) })})
	}
	return routes
}

func serveAdmin(w http.ResponseWriter, r *http.Request, calls map[string]call) error {
	w.Header().Set("Cache-Control", "no-store")
	call := calls[r.Method]
	if call == nil {
		allowed := strings.Join(slices.Sorted(maps.Keys(calls)), ", ")
		w.Header().Set("Allow", allowed)
		return refuse(http.StatusMethodNotAllowed, "the method %s is not one of %s", r.Method, allowed)
	}
	status, answer, err := call(r)
	if err != nil {
		return statusOf(err)
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

func refuse(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// statusOf gives an error its status.
func statusOf(err error) error {
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

// ParseQuery are the parameters of a request, of which each may be there once.
func ParseQuery(r *http.Request, known ...string) (url.Values, error) {
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

// ReadRequest reads a body of JSON without a field that means nothing. A browser
// sends no JSON to elsewhere without asking first.
func ReadRequest(r *http.Request, into any) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return access.RequestError("the body cannot be read")
	}
	if len(body) > maxBody {
		return refuse(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", maxBody)
	}
	if err := caddy.StrictUnmarshalJSON(body, into); err != nil {
		return access.Errorf("the body is no such request: %v", err)
	}
	return nil
}

// sitesNamed are the running sites of a name, or all of them if name is nil.
func sitesNamed(name *string) ([]*Site, error) {
	sites := running()
	if len(sites) == 0 {
		return nil, refuse(http.StatusNotFound, "no site with dependency_proxy is running")
	}
	if name == nil {
		return sites, nil
	}
	sites = slices.DeleteFunc(sites, func(s *Site) bool { return s.Name != *name })
	if len(sites) == 0 {
		return nil, refuse(http.StatusNotFound, "no site of the name '%s' is running", *name)
	}
	return sites, nil
}

// siteNamed is the running site that an access token is to be made for.
func siteNamed(name *string) (*Site, error) {
	sites, err := sitesNamed(name)
	if err != nil {
		return nil, err
	}
	for _, s := range sites {
		if s.Name != sites[0].Name {
			return nil, access.Errorf("several sites are running; say which by its name, as in '%s' or '%s'", sites[0].Name, s.Name)
		}
	}
	return sites[0], nil
}

// siteParameter is the site that a query names, if it names one.
func siteParameter(query url.Values) *string {
	if !query.Has("site") {
		return nil
	}
	name := query.Get("site")
	return &name
}

// Interface guards
var (
	_ caddy.Module      = api{}
	_ caddy.AdminRouter = api{}
)
