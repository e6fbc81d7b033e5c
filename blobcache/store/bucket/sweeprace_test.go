package bucket

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestSweepMeetsUploadsAndUses: content that another node uploads or reports as used
// after the listing stays.
func TestSweepMeetsUploadsAndUses(t *testing.T) {
	for name, meanwhile := range map[string]func(server *s3test.Server, object, content, digest string){
		"uploaded": func(server *s3test.Server, object, content, _ string) { server.Put(object, []byte(content)) },
		"used": func(server *s3test.Server, _, _, digest string) {
			server.Put("cache/used/2001-01-01/other", []byte(digest+"\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			digests := filled(t, server, 20, 20)
			n := limited(t, server, 0, 10*day)
			listings := 0
			server.OnAnswer(func(_, uri string) {
				if strings.Contains(uri, "prefix=cache%2Fblobs%2F") {
					if listings++; listings == 1 {
						meanwhile(server, objectOf(digests[0]), strings.Repeat("a", 1000), digests[0].String())
					}
				}
			})
			sweep(t, n)
			if got := left(server, digests); got != "a" || listings < 2 {
				t.Errorf("left %q after %d listings, want a", got, listings)
			}
		})
	}
}

// TestSweepMeetsLastUpload: content that is uploaded after the last listing stays.
func TestSweepMeetsLastUpload(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 20)
	n := limited(t, server, 0, 10*day)
	listings := 0
	server.OnAnswer(func(_, uri string) {
		if strings.Contains(uri, "prefix=cache%2Fblobs%2F") {
			if listings++; listings == 2 {
				server.Put(objectOf(digests[0]), []byte(strings.Repeat("a", 1000)))
			}
		}
	})
	if swept := sweep(t, n); swept.Removed != 0 || listings < 2 {
		t.Errorf("got %+v after %d listings, want that nothing is removed", swept, listings)
	}
}

// TestSweepSparesYoung: what was uploaded an hour ago stays, even if the bucket is too
// small, and so does what is used here and could not be reported.
func TestSweepSparesYoung(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 0, 0, 3)
	if swept := sweep(t, limited(t, server, 1, 0)); swept.Removed != 1 || left(server, digests) != "ab" {
		t.Errorf("removed %d and left %q, want 1 and ab", swept.Removed, left(server, digests))
	}
	server.Advance(sweepInterval)
	n := limited(t, server, 0, day)
	d := n.put(t, someContent)
	n.flush(t)
	server.Age(objectOf(d), time.Now().Add(-20*day))
	server.Set(s3test.Faults{Full: true})
	if err := n.saveUses(t.Context(), time.Now()); err == nil {
		t.Error("the report was written to a full bucket")
	}
	// The mark of the sweep cannot be written either.
	if swept, err := n.sweep(t.Context()); err == nil || swept.Removed != 0 {
		t.Errorf("got %+v, %v, want that nothing is removed and a full bucket", swept, err)
	}
	if _, ok := server.Get(objectOf(d)); !ok {
		t.Error("content is gone that is in use here")
	}
}

// TestSweepMakesRoom: a bucket that is full is swept although nothing can be written.
func TestSweepMakesRoom(t *testing.T) {
	server := s3test.New(t)
	digests := filled(t, server, 20, 5)
	n := limited(t, server, 1500, 0)
	server.Set(s3test.Faults{Full: true})
	_, _ = n.sweep(t.Context())
	if got := left(server, digests); got != "b" {
		t.Errorf("left %q, want b", got)
	}
}

// TestSweepWaitsForReports: a node that could not report what it uses holds up a sweep for
// some time, and what went unused since its report stays as long.
func TestSweepWaitsForReports(t *testing.T) {
	server := s3test.New(t)
	sweep(t, limited(t, server, 0, 10*day)) // leaves its mark
	server.Advance(13 * time.Hour)
	now := time.Now().Add(13 * time.Hour)
	digests := filled(t, server, 20, 20)
	server.Age(objectOf(digests[0]), now.Add(-10*day-9*time.Hour))
	server.Age(objectOf(digests[1]), now.Add(-10*day-4*time.Hour))
	report := "cache/used/2001-01-01/other"
	server.Put(report, nil)
	server.Age(report, now.Add(-6*time.Hour))
	n := limited(t, server, 1500, 10*day)
	if _, err := n.sweep(t.Context()); !errors.Is(err, errNotDue) {
		t.Errorf("while a node is overdue: got %v, want %v", err, errNotDue)
	}
	server.Advance(11 * time.Hour)
	server.Age(report, now.Add(5*time.Hour)) // six hours ago
	server.Age(objectOf(digests[1]), now.Add(5*time.Hour-10*day+2*time.Hour))
	n = limited(t, server, 0, 10*day)
	sweep(t, n)
	if got := left(server, digests); got != "b" {
		t.Errorf("a day after the last sweep: left %q, want b", got)
	}
}

// TestSaveUsesLate: a node whose reports failed for long looks whether what it used is
// still in the bucket, and uploads it again.
func TestSaveUsesLate(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	n := start(t, config)
	d := n.put(t, someContent)
	n.flush(t)
	if err := n.saveUses(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	server.Lose(objectOf(d)) // another node has swept it
	later := time.Now().Add(5 * time.Hour)
	if err := n.Touch(t.Context(), d, later); err != nil {
		t.Fatal(err)
	}
	server.Set(s3test.Faults{Status: 503, Code: "SlowDown"})
	if err := n.saveUses(t.Context(), later); err == nil || !n.Removable(t.Context(), d) {
		t.Errorf("a report to a bucket that throttles: %v", err)
	}
	server.Set(s3test.Faults{})
	if err := n.saveUses(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	n.flush(t)
	if _, ok := server.Get(objectOf(d)); !ok {
		t.Error("the content was not uploaded again")
	}
}

// TestSaveUsesOfEvicted: what was used today is in each report of the day, also if it is not
// stored locally any more.
func TestSaveUsesOfEvicted(t *testing.T) {
	server := s3test.New(t)
	one := limited(t, server, 0, 10*day)
	d := one.put(t, someContent)
	one.flush(t)
	now := time.Now()
	for range 2 {
		if err := one.Remove(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if err := one.saveUses(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		report, _ := server.Get(onlyIn(t, server, "used"))
		if !strings.Contains(string(report), d.String()) {
			t.Errorf("the report has %q, want %s", report, d)
		}
	}
}

// TestSaveUsesAfterMidnight: what was used late on a day is reported on the next one.
func TestSaveUsesAfterMidnight(t *testing.T) {
	server := s3test.New(t)
	n := newNode(t, server)
	d := n.put(t, someContent)
	midnight := time.Now().UTC().Truncate(day).Add(day)
	for _, step := range []struct {
		used, report time.Duration
		day          string
		want         bool
	}{
		{-3 * time.Hour, -2 * time.Hour, midnight.Add(-day).Format(dayFormat), true},
		{-10 * time.Minute, 30 * time.Minute, midnight.Format(dayFormat), true},
		{-40 * time.Minute, 25 * time.Hour, midnight.Add(day).Format(dayFormat), false},
	} {
		if err := n.Touch(t.Context(), d, midnight.Add(step.used)); err != nil {
			t.Fatal(err)
		}
		if err := n.saveUses(t.Context(), midnight.Add(step.report)); err != nil {
			t.Fatal(err)
		}
		node, _ := n.nodeName(t.Context())
		text, ok := server.Get("cache/used/" + step.day + "/" + node)
		if got := strings.Contains(string(text), d.String()); !ok || got != step.want {
			t.Errorf("used %v and reported %v after midnight: the report is %q, %v", step.used, step.report, text, ok)
		}
	}
}

// TestSweepDuringPulls: while two nodes sweep one time after the other, what is uploaded or
// fetched again stays, all of it can be fetched, and what nobody uses goes.
func TestSweepDuringPulls(t *testing.T) {
	server := s3test.New(t)
	unused := filled(t, server, 20, 20, 20)
	n := newNode(t, server)
	pulled := make(chan struct{})
	var sweeps sync.WaitGroup
	for range 2 {
		sweeper := limited(t, server, 1, 10*day)
		sweeps.Go(func() {
			for last := false; !last; {
				select {
				case <-pulled:
					last = true
				default:
				}
				server.Lose("cache/" + sweptName)
				if _, err := sweeper.sweep(t.Context()); err != nil && !errors.Is(err, errNotDue) {
					t.Errorf("sweep: %v", err)
				}
			}
		})
	}
	var used []digest.Digest
	for i := range 50 {
		content := fmt.Sprint("content ", i)
		if i%2 == 0 { // it is there already
			server.Put(objectOf(digest.FromString(content)), []byte(content))
		}
		used = append(used, n.put(t, content))
	}
	n.flush(t)
	for _, d := range used {
		if got, _, err := fetchAll(t, n, d, 0, -1); err != nil || digest.FromString(got) != d {
			t.Errorf("%s: got %q, %v", d, got, err)
		}
	}
	close(pulled)
	sweeps.Wait()
	for _, d := range used {
		if _, found := server.Get(objectOf(d)); !found {
			t.Errorf("%s is gone", d)
		}
	}
	if got := left(server, unused); got != "" {
		t.Errorf("left %q of what nobody uses", got)
	}
}
