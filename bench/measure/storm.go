package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// storm measures pulls with and without a hundred clients that guess passwords, each
// from its own address, for accounts that exist and for others. It also measures the
// duration of legitimate logins meanwhile.
func storm(s *settings) error {
	const guessers = 100
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	// The proxy knows the address of the legitimate client from earlier logins.
	for i := range 2 {
		status, body, err := s.login(account(i), s.password, "192.0.2.1")
		if err := expect(http.StatusOK, status, body, err); err != nil {
			return err
		}
	}
	if err := s.pullManifests("calm", im); err != nil {
		return err
	}
	end := s.guess(guessers)
	time.Sleep(time.Second) // until the storm has started
	err = s.pullManifests(fmt.Sprintf("storm of %d", guessers), im)
	for _, login := range []struct{ what, user string }{{"a repeated login", account(0)}, {"a first login", account(s.accounts - 1)}} {
		began := time.Now()
		status, _, lerr := s.login(login.user, s.password, "192.0.2.1")
		fmt.Printf("  meanwhile %s is answered with %d after %.1f ms\n", login.what, status, ms(time.Since(began)))
		err = errors.Join(err, lerr)
	}
	fmt.Printf("  the guesses were answered with%s\n", end())
	return err
}

// guess guesses passwords until end is called, which returns the number of responses
// with each status. Half of the guesses are for accounts that exist, except the last
// one.
func (s *settings) guess(guessers int) (end func() string) {
	var stop atomic.Bool
	var mu sync.Mutex
	var group sync.WaitGroup
	answers := make(map[int]int)
	for g := range guessers {
		group.Go(func() {
			for i := 0; !stop.Load(); i++ {
				name := account(g % (s.accounts - 1))
				if g%2 == 0 {
					name = fmt.Sprintf("nobody%d-%d", g, i)
				}
				// The address changes before its guesses are throttled.
				status, _, err := s.login(name, fmt.Sprint("wrong", i), fmt.Sprintf("198.%d.%d.1", 18+i/20%200, g))
				if err != nil {
					status = 0
				}
				mu.Lock()
				answers[status]++
				mu.Unlock()
			}
		})
	}
	return func() (summary string) {
		stop.Store(true)
		group.Wait()
		for _, status := range slices.Sorted(maps.Keys(answers)) {
			summary += fmt.Sprintf(" %d: %d times", status, answers[status])
		}
		return summary
	}
}

// pullManifests measures requests for the manifest over four connections.
func (s *settings) pullManifests(what string, im *image) error {
	const requests = 4000
	each, all, err := spread(requests, 4, func(int) error {
		status, body, err := ask(s.proxy+"/v2/"+s.repository+"/manifests/latest", im.authorize)
		return expect(http.StatusOK, status, body, err)
	})
	if err != nil {
		return fmt.Errorf("pulls, %s: %w", what, err)
	}
	fmt.Printf("pulls of a manifest by tag with a token, 4 concurrent, %-13s p50 %6.2f ms  p99 %6.2f ms  %6.0f per second\n",
		what+":", quantile(each, 0.5), quantile(each, 0.99), requests/all.Seconds())
	return nil
}
