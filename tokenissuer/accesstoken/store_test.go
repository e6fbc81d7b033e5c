package accesstoken

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestStoreCreateAndVerify checks that all nodes return a token as it was created,
// until it expires.
func TestStoreCreateAndVerify(t *testing.T) {
	for _, want := range []Token{deploy, personal, ofGroup} {
		s, c := recordtest.NewStorage(t), recordtest.NewClock()
		one, other := newNode(s, c), newNode(s, c)
		created, secret := create(t, one, want, 24*time.Hour)
		want.ID, _ = Parse(secret)
		want.Created, want.Expires = c.Now(), c.Now().Add(24*time.Hour)
		if !reflect.DeepEqual(created, want) {
			t.Errorf("Create: got %+v, want %+v", created, want)
		}
		for _, node := range []*Store{one, other} {
			if got := accept(t, node, secret); !reflect.DeepEqual(got, want) {
				t.Errorf("Verify: got %+v, want %+v", got, want)
			}
			if got, err := node.Find(t.Context(), want.ID); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("Find: got %+v, error %v, want %+v", got, err, want)
			}
		}
		for name, content := range s.Files {
			if strings.Contains(string(content), secret[len(Prefix):]) || strings.Contains(name, secret[len(Prefix):]) {
				t.Errorf("got the secret in %s, want only its hash", name)
			}
		}
		c.Advance(24*time.Hour - time.Second)
		accept(t, one, secret)
		c.Advance(time.Second)
		for _, node := range []*Store{one, other} {
			refuse(t, node, secret, ErrExpired)
			if _, err := node.Peek(t.Context(), want.ID); !errors.Is(err, ErrExpired) {
				t.Errorf("Peek: got error %v, want ErrExpired", err)
			}
		}
	}
}

func TestStoreRejectsInvalidTokens(t *testing.T) {
	node := newNode(recordtest.NewStorage(t), recordtest.NewClock())
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
		if created, secret, err := node.Create(t.Context(), token, time.Hour); err == nil || secret != "" {
			t.Errorf("%s: got token %+v, error %v, want an error", name, created, err)
		}
	}
	for _, lifetime := range []time.Duration{0, -time.Hour, time.Second, maxLifetime + time.Second} {
		if _, _, err := node.Create(t.Context(), deploy, lifetime); err == nil {
			t.Errorf("lifetime %s: got no error", lifetime)
		}
	}
}

// TestStoreStorageAway checks that, without the storage, remembered tokens are
// accepted for cacheFor and no others, and that valid tokens are not called
// invalid.
func TestStoreStorageAway(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, time.Hour)
	accept(t, node, secret)
	s.Set(func() { s.Err = recordtest.ErrAway })
	_, stranger := create(t, newNode(recordtest.NewStorage(t), c), deploy, time.Hour)
	c.Advance(cacheFor - time.Second)
	accept(t, node, secret)
	refuse(t, node, stranger, ErrUnavailable)
	c.Advance(time.Second)
	refuse(t, node, secret, ErrUnavailable)
	if _, _, err := node.Create(t.Context(), deploy, time.Hour); !errors.Is(err, ErrUnavailable) || !errors.Is(err, recordtest.ErrAway) {
		t.Errorf("Create: got error %v, want ErrUnavailable", err)
	}
	if _, err := node.Revoke(t.Context(), created.ID, "", always); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Revoke: got error %v, want ErrUnavailable", err)
	}
	if _, err := node.List(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("List: got error %v, want ErrUnavailable", err)
	}
	s.Set(func() { s.Err = nil })
	accept(t, node, secret)
	refuse(t, node, stranger, fs.ErrNotExist)
	// A client that leaves does not affect others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Advance(cacheFor)
	if _, err := node.Verify(ctx, secret); err != nil && !errors.Is(err, ErrUnavailable) {
		t.Errorf("a client that left: got error %v, want none or ErrUnavailable", err)
	}
	accept(t, node, secret)
}

// TestStoreStoragePanics checks that a panic of the storage reaches the caller and
// leaves the store usable.
func TestStoreStoragePanics(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	_, secret := create(t, node, deploy, time.Hour)
	s.OnLoad = func(string) { panic("storage") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("got no panic")
			}
		}()
		_, _ = node.Verify(t.Context(), secret)
	}()
	s.OnLoad = nil
	accept(t, node, secret)
}

// TestStoreSameID checks that the whole hash is compared, not only the ID.
func TestStoreSameID(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, time.Hour)
	var file tokenFile
	if err := json.Unmarshal(s.Files[storedName(created.ID)], &file); err != nil {
		t.Fatal(err)
	}
	file.SHA256 = file.SHA256[:20] + strings.Repeat("A", len(file.SHA256)-20)
	s.Files[storedName(created.ID)], _ = json.Marshal(file)
	if _, err := node.Find(t.Context(), created.ID); err != nil {
		t.Fatal(err)
	}
	refuse(t, node, secret, fs.ErrNotExist)
}

func TestStoreRejectsDamagedFiles(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, time.Hour)
	other, _ := create(t, node, deploy, time.Hour)
	good := string(s.Files[storedName(created.ID)])
	var fields map[string]any
	if err := json.Unmarshal([]byte(good), &fields); err != nil {
		t.Fatal(err)
	}
	hash := fields["sha256"].(string)
	for name, content := range map[string]string{
		"empty": "", "cut": good[:len(good)/2], "null": "null", "long": good + strings.Repeat(" ", maxFile),
		"another's":    string(s.Files[storedName(other.ID)]),
		"other id":     strings.Replace(good, created.ID, other.ID, 1),
		"other hash":   strings.Replace(good, hash, strings.Repeat("A", len(hash)), 1),
		"short hash":   strings.Replace(good, hash, hash[:20], 1),
		"no time":      strings.Replace(good, `"expires"`, `"x"`, 1),
		"for ever":     strings.Replace(good, `"expires":"2026`, `"expires":"2036`, 1),
		"other scopes": strings.Replace(good, `["pull"]`, `["pull","manage"]`, 1),
	} {
		reported := 0
		node := New(Config{Storage: s, Now: c.Now, Hooks: Hooks{BadFile: func(id string, err error) {
			reported++
			if id != created.ID || strings.Contains(err.Error(), hash) {
				t.Errorf("%s: got report of %s, %v, want %s without the hash", name, id, err, created.ID)
			}
		}}})
		s.Files[storedName(created.ID)] = []byte(content)
		refuse(t, node, secret, fs.ErrNotExist)
		if reported != 1 {
			t.Errorf("%s: got %d reports, want 1", name, reported)
		}
		if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 1 {
			t.Errorf("%s: got tokens %+v, error %v, want the other token", name, tokens, err)
		}
	}
	s.Files[storedName(created.ID)] = []byte(good)
	accept(t, newNode(s, c), secret)
}
