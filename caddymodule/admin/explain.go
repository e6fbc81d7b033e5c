package admin

import (
	"net/http"
	"reflect"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// Explanation is the decision of sites about a pull, with its reason.
type Explanation struct {
	// Sites are the names of the sites that decide so.
	Sites []string `json:"sites"`

	Allowed bool `json:"allowed"`
	// Rule is the rule that decides, as in a denial, or one of "unknown
	// account" and "blocked account".
	Rule string `json:"rule"`

	// Limits are the allow patterns that permit the image, of the group and of
	// the groups above it.
	Limits []string `json:"limits,omitempty"`

	// Warning says that anybody can pull through the group with an upstream
	// login. It is empty otherwise.
	Warning string `json:"warning,omitempty"`

	// Account is nil for an anonymous client, and for an account that is unknown
	// or blocked.
	Account *ExplainedAccount `json:"account,omitempty"`

	Group string `json:"group"`
	// Visibility is empty if the group does not exist.
	Visibility directory.Visibility `json:"visibility,omitempty"`

	Image      string `json:"image"`
	Upstream   string `json:"upstream"`
	Repository string `json:"repository"`
	Reference  string `json:"reference"`

	// Offline reports that the upstream is offline by configuration, so that only
	// what is cached can be pulled.
	Offline bool `json:"offline,omitempty"`
}

// ExplainedAccount is an account as a site sees it.
type ExplainedAccount struct {
	Name        string   `json:"name"`
	Directory   string   `json:"directory"`
	AccessToken string   `json:"access_token,omitempty"`
	Admin       bool     `json:"admin,omitempty"`
	Role        string   `json:"role"`
	OnlyGroups  []string `json:"only_groups,omitempty"`
	PullOnly    bool     `json:"pull_only,omitempty"`
	// Misspelled are entries of the configuration that differ from the account
	// in spelling only, and therefore mean another account.
	Misspelled []string `json:"misspelled,omitempty"`
}

// ExplanationList is the response to a GET of /dependency_proxy/explain. Sites that
// decide alike share an explanation.
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
	var list ExplanationList
	for _, s := range sites {
		one, err := s.Explain(r.Context(), query.Get("as"), query.Get("pull"))
		if err != nil {
			return 0, nil, err
		}
		list.add(one, s.Name)
	}
	return http.StatusOK, list, nil
}

// add adds the explanation of a site, or adds the site to an equal explanation.
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
