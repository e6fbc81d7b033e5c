package accesstoken

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// TestLife: a token is what was asked for, at each node, until its time is over.
func TestLife(t *testing.T) {
	for _, want := range []Token{deploy, personal, ofGroup} {
		s, c := newStorage(t), newClock()
		one, other := newNode(s, c), newNode(s, c)
		made, secret := create(t, one, want, 24*time.Hour)
		want.ID, want.Created, want.Expires = IDOf(secret), c.now(), c.now().Add(24*time.Hour)
		if !reflect.DeepEqual(made, want) {
			t.Errorf("made %+v instead of %+v", made, want)
		}
		for _, node := range []*Store{one, other} {
			if got := accept(t, node, secret); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v instead of %+v", got, want)
			}
			if got, err := node.Find(t.Context(), want.ID); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("found %+v, %v", got, err)
			}
		}
		for name, content := range s.files {
			if strings.Contains(string(content), secret[len(Prefix):]) || strings.Contains(name, secret[len(Prefix):]) {
				t.Errorf("%s holds the secret", name)
			}
		}
		c.advance(24*time.Hour - time.Second)
		accept(t, one, secret)
		c.advance(time.Second)
		for _, node := range []*Store{one, other} {
			refuse(t, node, secret, ErrExpired)
			if _, err := node.Peek(t.Context(), want.ID); !errors.Is(err, ErrExpired) {
				t.Errorf("%v", err)
			}
		}
	}
}

// TestContradictions: what makes no sense is not made.
func TestContradictions(t *testing.T) {
	node := newNode(newStorage(t), newClock())
	long := strings.Repeat("x", 300)
	for name, change := range map[string]func(*Token){
		"no kind":            func(t *Token) { t.Kind = "" },
		"other kind":         func(t *Token) { t.Kind = "root" },
		"deploy with owner":  func(t *Token) { t.Owner = personal.Owner },
		"no group":           func(t *Token) { t.Groups = nil },
		"two groups":         func(t *Token) { t.Groups = []string{"a", "b"} },
		"empty group":        func(t *Token) { t.Groups = []string{""} },
		"deploy with role":   func(t *Token) { t.Role = "member" },
		"deploy may manage":  func(t *Token) { t.Scopes = []Scope{Pull, Manage} },
		"no scopes":          func(t *Token) { t.Scopes = nil },
		"other scopes":       func(t *Token) { t.Scopes = []Scope{Pull, "push"} },
		"group without role": func(t *Token) { t.Kind = Group },
		"no owner":           func(t *Token) { t.Kind = Personal },
		"nameless owner":     func(t *Token) { t.Kind, t.Owner = Personal, &Owner{Directory: "static"} },
		"no directory":       func(t *Token) { t.Kind, t.Owner = Personal, &Owner{Name: "alice"} },
		"no groups at all":   func(t *Token) { t.Kind, t.Owner, t.Groups = Personal, personal.Owner, []string{} },
		"too many groups":    func(t *Token) { t.Kind, t.Owner, t.Groups = Personal, personal.Owner, strings.Split(long, "") },
		"long facts": func(t *Token) {
			t.Kind, t.Owner = Personal, &Owner{Name: "a", Directory: "b", Facts: strings.Repeat(long, 4)}
		},
		"long name":    func(t *Token) { t.Name = long },
		"line in name": func(t *Token) { t.Name = "a\nb" },
		"bad UTF-8":    func(t *Token) { t.Site = "\xff" },
	} {
		token := deploy
		change(&token)
		if made, secret, err := node.Create(t.Context(), token, time.Hour); err == nil || secret != "" {
			t.Errorf("%s: %+v", name, made)
		}
	}
	for _, lifetime := range []time.Duration{0, -time.Hour, time.Second, MaxLifetime + time.Second} {
		if _, _, err := node.Create(t.Context(), deploy, lifetime); err == nil {
			t.Errorf("a token for %s", lifetime)
		}
	}
}

// TestRevoke: a revocation counts at once where it was made, and elsewhere when
// what was read before is too old.
func TestRevoke(t *testing.T) {
	c := newClock()
	folder := t.TempDir()
	one := newNode(&certmagic.FileStorage{Path: folder}, c)
	other := newNode(&certmagic.FileStorage{Path: folder}, c)
	made, secret := create(t, one, personal, time.Hour)
	kept, keptSecret := create(t, other, deploy, time.Hour)
	accept(t, one, secret)
	accept(t, other, secret)
	c.advance(CacheFor - time.Second)
	for range 2 { // it is the same twice
		revoked, err := one.Revoke(t.Context(), made.ID, "mia")
		if err != nil || revoked.RevokedBy != "mia" || revoked.Revoked.IsZero() {
			t.Fatalf("%+v, %v", revoked, err)
		}
	}
	refuse(t, one, secret, ErrRevoked)
	accept(t, other, secret)
	c.advance(time.Second)
	refuse(t, other, secret, ErrRevoked)
	refuse(t, newNode(&certmagic.FileStorage{Path: folder}, c), secret, ErrRevoked)
	accept(t, one, keptSecret)
	for _, node := range []*Store{one, other} {
		tokens, err := node.List(t.Context())
		if err != nil || len(tokens) != 2 {
			t.Fatalf("%+v, %v", tokens, err)
		}
		for _, token := range tokens {
			if token.Revoked.IsZero() != (token.ID == kept.ID) {
				t.Errorf("%+v", token)
			}
		}
	}
	for _, id := range []string{"", "x", secret, strings.Repeat("a", 16), "../../certificates", strings.ToUpper(made.ID)} {
		if _, err := one.Revoke(t.Context(), id, ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestRevokeInLookup: what was read before a revocation is not believed after.
func TestRevokeInLookup(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, time.Hour)
	var once sync.Once
	s.loading = func(key string) {
		if strings.HasSuffix(key, ".revoked") { // there is none yet, and this is too late to see it
			once.Do(func() {
				s.set(func() { s.loading = nil })
				if _, err := node.Revoke(t.Context(), made.ID, ""); err != nil {
					t.Error(err)
				}
			})
		}
	}
	refuse(t, node, secret, ErrRevoked)
	refuse(t, node, secret, ErrRevoked)
}

// TestLagging: a node holds to what it has revoked, however late its storage
// shows it; and so does a tombstone without its token in a listing.
func TestLagging(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, time.Hour)
	if _, err := node.Revoke(t.Context(), made.ID, ""); err != nil {
		t.Fatal(err)
	}
	s.lagging[node.grave(made.ID)] = true
	for range 5 {
		refuse(t, node, secret, ErrRevoked)
		if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 1 || tokens[0].Revoked.IsZero() {
			t.Errorf("%+v, %v", tokens, err)
		}
		c.advance(CacheFor)
	}
	delete(s.lagging, node.grave(made.ID))
	s.files[node.grave(made.ID)] = []byte("damaged")
	refuse(t, newNode(s, c), secret, ErrRevoked)
	// What is no more in storage is over, too.
	delete(s.files, node.file(made.ID))
	refuse(t, newNode(s, c), secret, fs.ErrNotExist)
}

// TestAway: without storage what is known holds for its time and no longer,
// and nothing is called wrong that is not.
func TestAway(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, time.Hour)
	accept(t, node, secret)
	s.set(func() { s.fail = errAway })
	_, stranger := create(t, newNode(newStorage(t), c), deploy, time.Hour)
	c.advance(CacheFor - time.Second)
	accept(t, node, secret)
	refuse(t, node, stranger, ErrUnavailable)
	c.advance(time.Second)
	refuse(t, node, secret, ErrUnavailable)
	if _, _, err := node.Create(t.Context(), deploy, time.Hour); !errors.Is(err, ErrUnavailable) || !errors.Is(err, errAway) {
		t.Errorf("create: %v", err)
	}
	if _, err := node.Revoke(t.Context(), made.ID, ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("revoke: %v", err)
	}
	if _, err := node.List(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("list: %v", err)
	}
	s.set(func() { s.fail = nil })
	accept(t, node, secret)
	refuse(t, node, stranger, fs.ErrNotExist)
	// A client that leaves decides nothing for the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.advance(CacheFor)
	if _, err := node.Verify(ctx, secret); err != nil && !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	accept(t, node, secret)
}

// TestGraveAway: where it cannot be told whether a token is revoked, it is not
// good; and a revocation that failed and yet took effect is believed at once.
func TestGraveAway(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, time.Hour)
	s.set(func() { s.failing = ".revoked" })
	refuse(t, node, secret, ErrUnavailable)
	s.set(func() { s.failing = "" })
	accept(t, node, secret)
	s.loading = func(key string) { // fails once it has been looked that there is none
		if strings.HasSuffix(key, ".revoked") {
			s.set(func() { s.failing, s.loading = ".revoked", nil })
		}
	}
	if _, err := node.Revoke(t.Context(), made.ID, ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
	s.set(func() { s.failing = "" })
	refuse(t, node, secret, ErrRevoked)
}

// TestSameID: an id is the beginning of a hash, and all of it counts.
func TestSameID(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, time.Hour)
	var file tokenFile
	if err := json.Unmarshal(s.files[node.file(made.ID)], &file); err != nil {
		t.Fatal(err)
	}
	file.SHA256 = file.SHA256[:20] + strings.Repeat("A", len(file.SHA256)-20)
	s.files[node.file(made.ID)], _ = json.Marshal(file)
	if _, err := node.Find(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	refuse(t, node, secret, fs.ErrNotExist)
}

// TestDamaged: a file that is not a token of its name lets nobody in.
func TestDamaged(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, time.Hour)
	other, _ := create(t, node, deploy, time.Hour)
	good := string(s.files[node.file(made.ID)])
	var fields map[string]any
	if err := json.Unmarshal([]byte(good), &fields); err != nil {
		t.Fatal(err)
	}
	hash := fields["sha256"].(string)
	for name, content := range map[string]string{
		"empty": "", "cut": good[:len(good)/2], "null": "null", "long": good + strings.Repeat(" ", maxFile),
		"another's":    string(s.files[node.file(other.ID)]),
		"other id":     strings.Replace(good, made.ID, other.ID, 1),
		"other hash":   strings.Replace(good, hash, strings.Repeat("A", len(hash)), 1),
		"short hash":   strings.Replace(good, hash, hash[:20], 1),
		"no time":      strings.Replace(good, `"expires"`, `"x"`, 1),
		"for ever":     strings.Replace(good, `"expires":"2026`, `"expires":"2036`, 1),
		"other scopes": strings.Replace(good, `["pull"]`, `["pull","manage"]`, 1),
	} {
		reported := 0
		node := New(Config{Storage: s, Now: c.now, Hooks: Hooks{BadFile: func(id string, err error) {
			reported++
			if id != made.ID || strings.Contains(err.Error(), hash) {
				t.Errorf("%s: %s, %v", name, id, err)
			}
		}}})
		s.files[node.file(made.ID)] = []byte(content)
		refuse(t, node, secret, fs.ErrNotExist)
		if reported != 1 {
			t.Errorf("%s: %d reports", name, reported)
		}
		if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 1 {
			t.Errorf("%s: %+v, %v", name, tokens, err)
		}
	}
	s.files[node.file(made.ID)] = []byte(good)
	accept(t, newNode(s, c), secret)
}
