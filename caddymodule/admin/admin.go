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

// api extends Caddy's admin API, which does not authenticate its clients.
type api struct{}

// call handles a request to the admin API. [StatusOf] gives its error a status. The
// response is encoded as JSON unless it is a stream.
type call func(r *http.Request) (status int, response any, err error)

// calls has the calls by path and method. A path that ends with a slash is followed
// by an argument.
var calls = map[string]map[string]call{
	tokensPath:       {http.MethodGet: listTokens, http.MethodPost: createToken},
	tokensPath + "/": {http.MethodDelete: revokeToken},
	explainPath:      {http.MethodGet: explain},
	cachePath:        {http.MethodGet: cacheStatus},
	scrubPath:        {http.MethodPost: scrub},
	missingPath:      {http.MethodGet: missing},
	warmPath:         {http.MethodPost: warm},
	statusPath:       {http.MethodGet: status},
}

const (
	tokensPath  = "/dependency_proxy/tokens"
	explainPath = "/dependency_proxy/explain"
	cachePath   = "/dependency_proxy/cache"
	scrubPath   = "/dependency_proxy/cache/scrub"
	statusPath  = "/dependency_proxy/status"
	missingPath = "/dependency_proxy/cache/missing"
	warmPath    = "/dependency_proxy/cache/warm"

	// maxBody is the size limit of the body of a request, in bytes.
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
			func(w http.ResponseWriter, r *http.Request) error { return serve(w, r, byMethod) })})
	}
	return routes
}

func serve(w http.ResponseWriter, r *http.Request, byMethod map[string]call) error {
	w.Header().Set("Cache-Control", "no-store")
	call := byMethod[r.Method]
	if call == nil {
		allowed := strings.Join(slices.Sorted(maps.Keys(byMethod)), ", ")
		w.Header().Set("Allow", allowed)
		return refuse(http.StatusMethodNotAllowed, "method %s is not supported; use %s", r.Method, allowed)
	}
	code, response, err := call(r)
	if err != nil {
		return StatusOf(err)
	}
	if send, ok := response.(stream); ok {
		send(w, r)
		return nil
	}
	body, err := json.Marshal(response)
	if err != nil {
		return fmt.Errorf("encoding the response: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
	return nil
}

func refuse(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// StatusOf returns the HTTP status of an error about access tokens or a request: that
// of a [caddy.APIError], 400 for an [access.RequestError], 404 for a token that does
// not exist, and 503 for any other failure.
func StatusOf(err error) caddy.APIError {
	var apiError caddy.APIError
	var invalid access.RequestError
	switch {
	case errors.As(err, &apiError):
		return apiError
	case errors.As(err, &invalid):
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, accesstoken.ErrUnavailable):
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
	}
	return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
}

// ParseQuery returns the parameters of a request. It returns an error for one that is
// not known and for one that occurs more than once.
func ParseQuery(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, access.RequestError("invalid query")
	}
	for name, values := range query {
		if len(known) == 0 {
			return nil, access.Errorf("unexpected parameter '%s'; leave it out", name)
		}
		if !slices.Contains(known, name) {
			return nil, access.Errorf("unknown parameter '%s'; use %s", name, strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, access.Errorf("duplicate parameter '%s'", name)
		}
	}
	return query, nil
}

// ReadRequest decodes the body of a request, which must be JSON without unknown
// fields. The media type protects from forged requests: a browser does not send JSON
// to another site without asking that site first.
func ReadRequest(r *http.Request, into any) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "the request body must be application/json")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return access.RequestError("cannot read the request body")
	}
	if len(body) > maxBody {
		return refuse(http.StatusRequestEntityTooLarge, "the request body is longer than %d bytes", maxBody)
	}
	if err := caddy.StrictUnmarshalJSON(body, into); err != nil {
		return access.Errorf("invalid request body: %v", err)
	}
	return nil
}

// sitesNamed returns the running sites with a name, or all of them if name is nil.
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
		return nil, refuse(http.StatusNotFound, "no site named '%s' is running", *name)
	}
	return sites, nil
}

// siteNamed returns the running site for which an access token is to be created. The
// name can be nil if all sites have the same one.
func siteNamed(name *string) (*Site, error) {
	sites, err := sitesNamed(name)
	if err != nil {
		return nil, err
	}
	for _, s := range sites {
		if s.Name != sites[0].Name {
			return nil, access.Errorf("several sites are running; name one of them, such as '%s' or '%s'", sites[0].Name, s.Name)
		}
	}
	return sites[0], nil
}

// siteParameter returns the site that a query names, or nil.
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
