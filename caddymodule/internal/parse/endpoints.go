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
// encryption. Errors show no more than the host of a URL, since it may contain a
// password.
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
