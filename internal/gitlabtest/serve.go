package gitlabtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// send sends a JSON response.
func send(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// sendError sends an error response.
func sendError(w http.ResponseWriter, status int, message string) {
	send(w, status, map[string]string{"message": message})
}

// orNull returns s, or null in place of an empty string, as GitLab does.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// number returns a number in the path of a request, 0 if it is invalid.
func number(r *http.Request, name string) int64 {
	n, _ := strconv.ParseInt(r.PathValue(name), 10, 64)
	return n
}

// service returns a handler that requires the service token.
func (g *GitLab) service(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("PRIVATE-TOKEN") != ServiceToken {
			sendError(w, 401, "401 Unauthorized")
			return
		}
		handle(w, r)
	}
}

func (g *GitLab) self(w http.ResponseWriter, r *http.Request) {
	t := g.Tokens[r.Header.Get("PRIVATE-TOKEN")]
	switch {
	case t == nil || t.Revoked:
		sendError(w, 401, "401 Unauthorized")
	case g.Users[t.User].State != "active":
		sendError(w, 403, "403 Forbidden - Your account has been blocked.")
	default:
		g.sendToken(w, t)
	}
}

func (g *GitLab) sendToken(w http.ResponseWriter, t *Token) {
	send(w, 200, map[string]any{"id": t.ID, "name": t.Name, "revoked": t.Revoked, "created_at": "2020-07-23T14:31:47.729Z",
		"scopes": t.Scopes, "user_id": t.User, "last_used_at": nil, "active": !t.Revoked, "expires_at": orNull(t.Expires)})
}

func (g *GitLab) token(w http.ResponseWriter, r *http.Request) {
	if !g.Admin {
		sendError(w, 401, "401 Unauthorized")
		return
	}
	for _, t := range g.Tokens {
		if t.ID == number(r, "id") {
			g.sendToken(w, t)
			return
		}
	}
	sendError(w, 404, "404 Not found")
}

func (g *GitLab) ownJob(w http.ResponseWriter, r *http.Request) {
	j := g.Jobs[r.Header.Get("JOB-TOKEN")]
	if j == nil || j.Status != "running" {
		sendError(w, 401, "401 Unauthorized")
		return
	}
	g.sendJob(w, j)
}

func (g *GitLab) sendJob(w http.ResponseWriter, j *Job) {
	send(w, 200, map[string]any{"id": j.ID, "status": j.Status, "stage": "test", "name": "test", "user": g.userFields(j.User),
		"pipeline": map[string]any{"id": 6, "project_id": j.Project, "status": "pending"}, "project": map[string]any{"ci_job_token_scope_enabled": false}})
}

func (g *GitLab) job(w http.ResponseWriter, r *http.Request) {
	for _, j := range g.Jobs {
		if g.Admin && j.ID == number(r, "id") && j.Project == number(r, "project") {
			g.sendJob(w, j)
			return
		}
	}
	sendError(w, 404, "404 Project Not Found")
}

func (g *GitLab) userFields(id int64) map[string]any {
	u := g.Users[id]
	fields := map[string]any{"id": id, "username": u.Name, "name": u.Name, "state": u.State, "locked": false, "bot": u.Bot, "web_url": g.server.URL + "/" + u.Name}
	if g.Admin {
		fields["external"] = u.External // sent to administrators only
	}
	return fields
}

func (g *GitLab) user(w http.ResponseWriter, r *http.Request) {
	if g.Users[number(r, "id")] == nil {
		sendError(w, 404, "404 User Not Found")
		return
	}
	send(w, 200, g.userFields(number(r, "id")))
}

func (g *GitLab) userNamed(w http.ResponseWriter, r *http.Request) {
	found := []any{}
	for id, u := range g.Users {
		if strings.EqualFold(u.Name, r.URL.Query().Get("username")) {
			found = append(found, g.userFields(id))
		}
	}
	send(w, 200, found)
}

// find returns the group with the number or path in a request, or nil.
func (g *GitLab) find(r *http.Request) (int64, *Group) {
	for id, group := range g.Groups {
		if !group.Hidden && (id == number(r, "group") || strings.EqualFold(group.Path, r.PathValue("group"))) {
			return id, group
		}
	}
	return 0, nil
}

func groupFields(id int64, group *Group) map[string]any {
	return map[string]any{"id": id, "name": group.Path, "path": group.Path[strings.LastIndexByte(group.Path, '/')+1:], "full_path": group.Path, "visibility": group.Visibility}
}

func (g *GitLab) group(w http.ResponseWriter, r *http.Request) {
	id, group := g.find(r)
	if group == nil {
		sendError(w, 404, "404 Group Not Found")
		return
	}
	send(w, 200, groupFields(id, group))
}

func (g *GitLab) groups(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	size, _ := strconv.Atoi(r.URL.Query().Get("per_page"))
	list := []any{}
	for i, id := range slices.Sorted(maps.Keys(g.Groups)) {
		if group := g.Groups[id]; i/size == page-1 && !group.Hidden {
			list = append(list, groupFields(id, group))
		}
	}
	send(w, 200, list)
}

func (g *GitLab) member(w http.ResponseWriter, r *http.Request) {
	user := number(r, "id")
	_, group := g.find(r)
	var best *Member
	for _, above := range g.Groups {
		if group != nil && strings.HasPrefix(strings.ToLower(group.Path)+"/", strings.ToLower(above.Path)+"/") {
			if m := above.Members[user]; m != nil && (best == nil || m.Level > best.Level) {
				best = m
			}
		}
	}
	if best == nil {
		sendError(w, 404, "404 Not found")
		return
	}
	fields := g.userFields(user)
	fields["access_level"], fields["expires_at"] = best.Level, orNull(best.Expires)
	if best.State != "" {
		fields["membership_state"] = best.State
	}
	send(w, 200, fields)
}

func (g *GitLab) deployToken(w http.ResponseWriter, r *http.Request) {
	_, group := g.find(r)
	id := number(r, "id")
	switch {
	case group == nil:
		sendError(w, 404, "404 Group Not Found")
	case !g.Admin && !g.Maintainer:
		sendError(w, 403, "403 Forbidden")
	case group.Deploy[id] == nil:
		sendError(w, 404, "404 Not found")
	default:
		t := group.Deploy[id]
		send(w, 200, map[string]any{"id": id, "name": "MyToken", "username": t.Name, "expires_at": nil, "revoked": t.Revoked, "expired": t.Expired, "scopes": t.Scopes})
	}
}

// jwt handles requests to the token service of GitLab's registry and dependency
// proxy.
func (g *GitLab) jwt(w http.ResponseWriter, r *http.Request) {
	name, secret, _ := r.BasicAuth()
	service := r.URL.Query().Get("service")
	for _, group := range g.Groups {
		for id, t := range group.Deploy {
			if t.Name != name || t.Secret != secret || t.Revoked || t.Expired {
				continue
			}
			registry := slices.Contains(t.Scopes, "read_registry") || slices.Contains(t.Scopes, "write_registry")
			virtual := slices.Contains(t.Scopes, "read_virtual_registry") && slices.Contains(t.Scopes, "write_virtual_registry")
			switch {
			case service == "container_registry" && g.NoRegistry:
				send(w, 404, map[string]any{"errors": []any{map[string]string{"code": "UNAVAILABLE", "message": "registry not enabled"}}})
			case service == "container_registry" && registry:
				user := sign(map[string]any{"user_info": map[string]any{"token_type": "deploy_token", "username": name, "deploy_token_id": id}})
				send(w, 200, map[string]string{"token": sign(map[string]any{"aud": service, "access": []any{}, "user": user})})
			case service == "dependency_proxy" && (virtual || registry && slices.Contains(t.Scopes, "write_registry")):
				send(w, 200, map[string]string{"token": sign(map[string]any{"deploy_token": secret})})
			default:
				send(w, 403, map[string]any{"errors": []any{map[string]string{"code": "DENIED", "message": "access forbidden"}}})
			}
			return
		}
	}
	send(w, 401, map[string]any{"errors": []any{map[string]string{"code": "UNAUTHORIZED", "message": "HTTP Basic: Access denied"}}})
}

// sign returns claims in the form of a JWT with an invalid signature.
func sign(claims any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf("%s.%s.%s", encode([]byte(`{"alg":"RS256","typ":"JWT"}`)), encode(payload), encode([]byte("signature")))
}
