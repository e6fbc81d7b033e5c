package admin

import (
	"net/http"
	"reflect"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// Explanation is what a site would do about a pull, and why.
type Explanation struct {
	// Sites are the names of the sites that would do so.
	Sites []string `json:"sites"`

	Allowed bool `json:"allowed"`
	// Rule is what decides; it is the rule that denials name, or one of
	// "unknown account" and "blocked account".
	Rule string `json:"rule"`

	// Limits are the allow patterns that permit the image, of the group and of
	// the groups above it.
	Limits []string `json:"limits,omitempty"`

	// Warning tells that the group lets anybody use an upstream login.
	Warning string `json:"warning,omitempty"`

	// Account is who the name is to the site; nil for nobody.
	Account *ExplainedAccount `json:"account,omitempty"`

	Group string `json:"group"`
	// Visibility is empty if there is no such group.
	Visibility directory.Visibility `json:"visibility,omitempty"`

	Image      string `json:"image"`
	Upstream   string `json:"upstream"`
	Repository string `json:"repository"`
	Reference  string `json:"reference"`
}

type ExplainedAccount struct {
	Name        string   `json:"name"`
	Directory   string   `json:"directory"`
	AccessToken string   `json:"access_token,omitempty"`
	Admin       bool     `json:"admin,omitempty"`
	Role        string   `json:"role"`
	OnlyGroups  []string `json:"only_groups,omitempty"`
	PullOnly    bool     `json:"pull_only,omitempty"`
	// Misspelled are entries of the configuration that differ from the account
	// in spelling alone, and so mean another one.
	Misspelled []string `json:"misspelled,omitempty"`
}

// ExplanationList are the answer to a GET of /dependency_proxy/explain. Sites that
// would do the same are in one.
type ExplanationList struct {
	Answers []Explanation `json:"answers"`
}

func explain(r *http.Request) (int, any, error) {
	query, err := ParseQuery(r, "as", "pull", "site")
	if err != nil {
		return 0, nil, err
	}
	sites, err := sitesNamed(siteParameter(query))
	if err != nil {
		return 0, nil, err
	}
	var all ExplanationList
	for _, s := range sites {
		one, err := s.Explain(r.Context(), query.Get("as"), query.Get("pull"))
		if err != nil {
			return 0, nil, err
		}
		all.add(one, s.Name)
	}
	return http.StatusOK, all, nil
}

// add joins an explanation with an equal one of another site.
func (e *ExplanationList) add(one Explanation, site string) {
	for i := range e.Answers {
		other := &e.Answers[i]
		one.Sites = other.Sites
		if reflect.DeepEqual(one, *other) {
			other.Sites = append(other.Sites, site)
			return
		}
	}
	one.Sites = []string{site}
	e.Answers = append(e.Answers, one)
}
