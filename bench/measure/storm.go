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

// storm measures pulls without and with a hundred who guess passwords at the
// same time, each from an address of its own, at accounts that exist and at
// others; and what the owner of an account waits for a first login meanwhile.
func storm(s *settings) error {
	const guessers = 100
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	// The owner's home is known to the proxy before.
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
	time.Sleep(time.Second) // it takes a moment to be one
	err = s.pullManifests(fmt.Sprintf("storm of %d", guessers), im)
	for _, login := range []struct{ what, user string }{{"a repeated login", account(0)}, {"a first one", account(s.accounts - 1)}} {
		began := time.Now()
		status, _, lerr := s.login(login.user, s.password, "192.0.2.1")
		fmt.Printf("  meanwhile %s is answered %d after %.1f ms\n", login.what, status, ms(time.Since(began)))
		err = errors.Join(err, lerr)
	}
	fmt.Printf("  the guesses were answered%s\n", end())
	return err
}

// guess has passwords guessed until end is called, which tells the answers.
// Half of it is at accounts that exist, but for the last one.
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
				// An address is good for so many guesses.
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
	return func() (told string) {
		stop.Store(true)
		group.Wait()
		for _, status := range slices.Sorted(maps.Keys(answers)) {
			told += fmt.Sprintf(" %d: %d times", status, answers[status])
		}
		return told
	}
}

// pullManifests asks for the manifest over four connections.
func (s *settings) pullManifests(what string, im *image) error {
	const requests = 4000
	each, all, err := spread(requests, 4, func(int) error {
		status, body, err := ask(s.proxy+"/v2/"+s.repository+"/manifests/latest", im.authorize)
		return expect(http.StatusOK, status, body, err)
	})
	if err != nil {
		return fmt.Errorf("pulls, %s: %w", what, err)
	}
	fmt.Printf("pulls of a manifest by tag with a token, 4 at once, %-13s p50 %6.2f ms  p99 %6.2f ms  %6.0f a second\n",
		what+":", quantile(each, 0.5), quantile(each, 0.99), requests/all.Seconds())
	return nil
}
