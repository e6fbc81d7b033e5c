package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// users prints accounts for the Caddyfile, each with a hash of its own: what is
// remembered of one login is nothing to the next.
func users(s *settings) error {
	for i := range s.accounts {
		hash, err := bcrypt.GenerateFromPassword([]byte(s.password), s.cost)
		if err != nil {
			return err
		}
		fmt.Printf("user %s %s\n", account(i), hash)
	}
	return nil
}

func account(i int) string { return fmt.Sprintf("user%d", i) }

// many is for requests that are sent by hundreds at once.
var many = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}, Timeout: time.Minute}

// ask sends a request and returns the status, with the body read.
func ask(address string, prepare func(*http.Request)) (int, []byte, error) {
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return 0, nil, err
	}
	prepare(r)
	resp, err := many.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// login asks for a token, from an address that the proxy believes.
func (s *settings) login(user, password, from string) (int, []byte, error) {
	return ask(s.proxy+"/jwt/auth?service=dependency_proxy", func(r *http.Request) {
		r.SetBasicAuth(user, password)
		r.Header.Set("X-Forwarded-For", from)
	})
}

// expect turns another status into an error.
func expect(want, status int, body []byte, err error) error {
	if err == nil && status != want {
		err = fmt.Errorf("%d instead of %d: %s", status, want, body)
	}
	return err
}

// spread calls a function n times, so many at once, and returns how long each
// call took, sorted, and all of them.
func spread(n, clients int, call func(i int) error) (each []time.Duration, all time.Duration, err error) {
	var next atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for range clients {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				start := time.Now()
				failure := call(int(i))
				took := time.Since(start)
				mu.Lock()
				each = append(each, took)
				err = errors.Join(err, failure)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	all = time.Since(began)
	slices.Sort(each)
	return each, all, err
}

func quantile(sorted []time.Duration, q float64) float64 {
	return ms(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

// logins measures what it takes to find out who is asking.
func logins(s *settings) error {
	each, all, err := spread(s.accounts, s.clients, func(i int) error {
		for {
			// A login that has waited a second for its turn is to be retried.
			status, body, err := s.login(account(i), s.password, "192.0.2.1")
			if err != nil || status != http.StatusServiceUnavailable {
				return expect(http.StatusOK, status, body, err)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("first logins: %w", err)
	}
	fmt.Printf("logins, bcrypt at cost %d, %d at once:\n  first     %8.1f a second, median %.1f ms\n", s.cost, s.clients, float64(s.accounts)/all.Seconds(), quantile(each, 0.5))
	const repeats = 5000
	each, all, err = spread(repeats, s.clients, func(i int) error {
		status, body, err := s.login(account(i%s.accounts), s.password, "192.0.2.1")
		return expect(http.StatusOK, status, body, err)
	})
	if err != nil {
		return fmt.Errorf("repeated logins: %w", err)
	}
	fmt.Printf("  repeated  %8.1f a second, median %.2f ms (a new token each)\n", repeats/all.Seconds(), quantile(each, 0.5))
	if err := enumerate(s); err != nil {
		return err
	}
	if err := s.verify(); err != nil {
		return err
	}
	return s.removeMember()
}

// enumerate compares what a stranger can measure: an account that exists, with
// a wrong password, and one that does not. Each answer takes a second.
func enumerate(s *settings) error {
	const guesses = 20
	var known, unknown []time.Duration
	undecided := make(map[bool]int)
	for i := range guesses {
		for _, side := range []struct {
			name, password string
			took           *[]time.Duration
		}{{account(i % s.accounts), fmt.Sprint("wrong", i), &known}, {fmt.Sprint("nobody", i), fmt.Sprint("unknown", i), &unknown}} {
			began := time.Now()
			status, body, err := s.login(side.name, side.password, fmt.Sprintf("198.51.100.%d", i%250))
			if err == nil && status == http.StatusServiceUnavailable {
				undecided[side.took == &known]++
			} else if err := expect(http.StatusUnauthorized, status, body, err); err != nil {
				return fmt.Errorf("wrong logins: %w", err)
			}
			*side.took = append(*side.took, time.Since(began))
		}
	}
	slices.Sort(known)
	slices.Sort(unknown)
	a, b := quantile(known, 0.5), quantile(unknown, 0.5)
	fmt.Printf("wrong logins, %d of each: median %.1f ms for an account, %.1f ms for none: %+.1f %%; answered 503: %d and %d\n",
		len(known), a, b, 100*(b/a-1), undecided[true], undecided[false])
	return nil
}

// verify compares a manifest with a token that was seen before, with tokens
// that are new, and without any check: the same bytes from respond.
func (s *settings) verify() error {
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	const requests = 4000
	fresh := make([]string, requests)
	if _, _, err := spread(requests, s.clients, func(i int) error {
		status, body, err := s.login(account(0), s.password, "192.0.2.1")
		var answer struct{ Token string }
		if err = expect(http.StatusOK, status, body, err); err == nil {
			err = json.Unmarshal(body, &answer)
		}
		fresh[i] = answer.Token
		return err
	}); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	path := "/v2/" + s.repository + "/manifests/latest"
	fmt.Printf("manifest of %d bytes by tag, %d at once:\n", len(im.manifest), s.clients)
	for _, side := range []struct {
		name, base string
		token      func(i int) string
	}{
		{"one token", s.proxy, func(int) string { return im.token }},
		{"a new token each", s.proxy, func(i int) string { return fresh[i] }},
		{"respond, no token", s.respond, func(int) string { return "" }},
	} {
		each, all, err := spread(requests, s.clients, func(i int) error {
			status, body, err := ask(side.base+path, (&image{token: side.token(i)}).authorize)
			return expect(http.StatusOK, status, body, err)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", side.name, err)
		}
		fmt.Printf("  %-18s %8.0f requests/s  p50 %.2f ms  p99 %.2f ms\n", side.name, requests/all.Seconds(), quantile(each, 0.5), quantile(each, 0.99))
	}
	return nil
}

// removeMember takes the account out of its group by a reload, as an operator
// does, and measures how long its token still pulls.
func (s *settings) removeMember() error {
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	config, err := get(s.admin+"/config/", func(*http.Request) {})
	if err != nil {
		return err
	}
	member := []byte(`"members":["` + s.user + `",`)
	if bytes.Count(config, member) != 1 {
		return errors.New("the configuration does not have the member once")
	}
	without := bytes.Replace(config, member, []byte(`"members":[`), 1)
	loaded := make(chan error, 1)
	began := time.Now()
	go func() {
		resp, err := many.Post(s.admin+"/load", "application/json", bytes.NewReader(without))
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		loaded <- err
	}()
	for time.Since(began) < time.Minute {
		status, _, err := ask(s.proxy+"/v2/"+s.repository+"/manifests/latest", im.authorize)
		if err == nil && status == http.StatusForbidden {
			fmt.Printf("a member removed by a reload is refused after %.0f ms\n", ms(time.Since(began)))
			return <-loaded
		}
	}
	return errors.New("the member still pulls")
}
