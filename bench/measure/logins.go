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

// users prints accounts for the Caddyfile. Each has its own hash, so that a cached
// login does not help another account.
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

// account returns the name of account i.
func account(i int) string { return fmt.Sprintf("user%d", i) }

// many is the client for hundreds of concurrent requests.
var many = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}, Timeout: time.Minute}

// ask sends a GET request and returns the status and the body.
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

// login requests a token. The proxy trusts X-Forwarded-For, so from counts as the
// address of the client.
func (s *settings) login(user, password, from string) (int, []byte, error) {
	return ask(s.proxy+"/jwt/auth?service=dependency_proxy", func(r *http.Request) {
		r.SetBasicAuth(user, password)
		r.Header.Set("X-Forwarded-For", from)
	})
}

// expect returns an error if the request has failed or the status is not want.
func expect(want, status int, body []byte, err error) error {
	if err == nil && status != want {
		err = fmt.Errorf("got status %d, want %d: %s", status, want, body)
	}
	return err
}

// spread calls a function n times with the given number of concurrent clients. It
// returns the durations of the calls, sorted, and the total duration.
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

// quantile returns a quantile of sorted durations in ms.
func quantile(sorted []time.Duration, q float64) float64 {
	return ms(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

// logins measures authentication and the effect of a reload that removes a member.
func logins(s *settings) error {
	each, all, err := spread(s.accounts, s.clients, func(i int) error {
		for {
			// A login that has waited a second to be hashed is answered 503.
			status, body, err := s.login(account(i), s.password, "192.0.2.1")
			if err != nil || status != http.StatusServiceUnavailable {
				return expect(http.StatusOK, status, body, err)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("first logins: %w", err)
	}
	fmt.Printf("logins, bcrypt at cost %d, %d concurrent:\n  first     %8.1f per second, median %.1f ms\n", s.cost, s.clients, float64(s.accounts)/all.Seconds(), quantile(each, 0.5))
	const repeats = 5000
	each, all, err = spread(repeats, s.clients, func(i int) error {
		status, body, err := s.login(account(i%s.accounts), s.password, "192.0.2.1")
		return expect(http.StatusOK, status, body, err)
	})
	if err != nil {
		return fmt.Errorf("repeated logins: %w", err)
	}
	fmt.Printf("  repeated  %8.1f per second, median %.2f ms (each with a new token)\n", repeats/all.Seconds(), quantile(each, 0.5))
	if err := enumerate(s); err != nil {
		return err
	}
	if err := s.verify(); err != nil {
		return err
	}
	return s.removeMember()
}

// enumerate compares the duration of a login with a wrong password to an account that
// exists and to one that does not. Each takes a second.
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
				return fmt.Errorf("failed logins: %w", err)
			}
			*side.took = append(*side.took, time.Since(began))
		}
	}
	slices.Sort(known)
	slices.Sort(unknown)
	a, b := quantile(known, 0.5), quantile(unknown, 0.5)
	fmt.Printf("failed logins, %d of each: median %.1f ms to an account, %.1f ms to none: %+.1f %%; answered 503: %d and %d\n",
		len(known), a, b, 100*(b/a-1), undecided[true], undecided[false])
	return nil
}

// verify compares a manifest with one token, with a new token for each request, and
// the same bytes from respond without a token.
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
	fmt.Printf("manifest of %d bytes by tag, %d concurrent:\n", len(im.manifest), s.clients)
	for _, side := range []struct {
		name, base string
		token      func(i int) string
	}{
		{"one token", s.proxy, func(int) string { return im.token }},
		{"new tokens", s.proxy, func(i int) string { return fresh[i] }},
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

// removeMember removes the account from its group by a reload and measures how long
// its token can still pull.
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
		return errors.New("the member is not exactly once in the configuration")
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
			fmt.Printf("a member that a reload removes is refused after %.0f ms\n", ms(time.Since(began)))
			return <-loaded
		}
	}
	return errors.New("the removed member can still pull after a minute")
}
