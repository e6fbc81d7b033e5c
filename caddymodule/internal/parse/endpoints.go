package parse

import (
	"fmt"
	"net/url"
	"strings"
)

// maxEndpoints limits the endpoints of an upstream: a request asks them one after
// another within its time limit.
const maxEndpoints = 8

// Endpoints parses the URLs of registries with the same content, of which there must
// be at least one. A plain http URL must not follow an https one, because then
// whoever disturbs an encrypted connection would move the requests to one without
// encryption. A URL must not contain the path of the API, /v2. Errors show no more
// than the host of a URL, and its path around /v2, since it may contain a password.
func Endpoints(urls []string) ([]*url.URL, error) {
	if len(urls) > maxEndpoints {
		return nil, fmt.Errorf("%d endpoints; write at most %d", len(urls), maxEndpoints)
	}
	var parsed []*url.URL
	for i, text := range urls {
		which := "endpoint"
		if len(urls) > 1 {
			which = fmt.Sprintf("endpoint %d of %d", i+1, len(urls))
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("invalid %s; use a URL such as https://registry.example.com", which)
		}
		if prefix, project, ok := cutAPI(u); ok {
			hint := ""
			if project != "" {
				hint = fmt.Sprintf(", and %s before the name of the image in a pull", project)
			}
			return nil, fmt.Errorf("%s must not contain /v2, which every request adds; write %s%s", which, prefix, hint)
		}
		for _, other := range parsed {
			switch {
			case u.Scheme == "http" && other.Scheme == "https":
				return nil, fmt.Errorf("%s uses http after an https one, so whoever disturbs the https connection could read the login and forge tags; write https:// for it", which)
			case u.Scheme == other.Scheme && strings.EqualFold(u.Host, other.Host) && strings.Trim(u.Path, "/") == strings.Trim(other.Path, "/"):
				return nil, fmt.Errorf("%s repeats the endpoint %s; leave one of them out", which, u.Host)
			}
		}
		parsed = append(parsed, u)
	}
	return parsed, nil
}

// cutAPI splits a URL around the component v2 of its path, which starts the API of a
// registry. It reports whether there is one.
func cutAPI(u *url.URL) (endpoint, project string, ok bool) {
	prefix, project, ok := strings.Cut(strings.TrimSuffix(u.EscapedPath(), "/")+"/", "/v2/")
	return u.Scheme + "://" + u.Host + prefix, strings.Trim(project, "/"), ok
}
