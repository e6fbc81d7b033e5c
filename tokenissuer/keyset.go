package tokenissuer

import (
	"cmp"
	"slices"
	"time"
)

// keySet is what a node knows of the keys at one moment. It never changes:
// readers take it without a lock, and who learns something replaces it.
type keySet struct {
	byKid  map[string]*key
	sorted []*key // by creation, ties by kid: the same on every node
}

func newKeySet(keys []*key) *keySet {
	s := &keySet{byKid: make(map[string]*key, len(keys)), sorted: slices.Clone(keys)}
	slices.SortFunc(s.sorted, func(a, b *key) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.kid, b.kid))
	})
	for _, k := range s.sorted {
		s.byKid[k.kid] = k
	}
	return s
}

// with is the set without the keys in drop and with those in add.
func (s *keySet) with(add, drop []*key) *keySet {
	keys := slices.DeleteFunc(slices.Clone(s.sorted), func(k *key) bool {
		return slices.Contains(drop, k)
	})
	for _, k := range add {
		if old := s.byKid[k.kid]; old == nil || slices.Contains(drop, old) {
			keys = append(keys, k)
		}
	}
	return newKeySet(keys)
}

// verifier is the key that verifies tokens of kid at now, or nil.
func (s *keySet) verifier(kid string, now time.Time) *key {
	if k := s.byKid[kid]; k != nil && k.alive(now) {
		return k
	}
	return nil
}

// schedule is when keys come and go. All nodes that compute it from the same
// keys and the same settings come to the same signer.
type schedule struct {
	rotate   time.Duration // 0: never
	lead     time.Duration // from the publication of a key to its first signature
	lifetime time.Duration // of the longest-lived token
	refresh  time.Duration // after which storage is listed again; at most lead
}

func newSchedule(rotate, lifetime time.Duration) schedule {
	if lifetime == 0 {
		lifetime = DefaultTokenLifetime
	}
	p := schedule{
		rotate:   max(rotate, 0),
		lead:     PublishLead,
		lifetime: max(lifetime, MinLifetime),
		refresh:  RefreshInterval,
	}
	if p.rotate > 0 {
		p.lead = min(p.lead, p.rotate/4)
		p.refresh = min(p.refresh, p.lead)
	}
	return p
}

// end is the end of a key made at created. Its successor is made at rotate and
// signs a lead later; the second lead is for a successor that comes late. The
// leeway counts twice: once for the verification, once for a difference
// between the nodes' clocks.
func (p schedule) end(created time.Time) time.Time {
	if p.rotate == 0 {
		return time.Time{}
	}
	return created.Add(p.rotate + 2*p.lead + p.lifetime + 2*Leeway)
}

// signer chooses the key for a token that expires at exp, or nil:
//
//   - the newest key that has been published for a lead. Every node has listed
//     it by now, so nobody meets an unknown kid. It may be past its rotation,
//     while its successor is just published or cannot be stored;
//   - else the oldest of those just published: it is the one that most nodes
//     know.
//
// Whatever the choice, a key signs only what dies before it does. A key from
// the future signs nothing: a node whose clock is far ahead must not decide
// for all.
func (s *keySet) signer(p schedule, now, exp time.Time) *key {
	var settled, fresh *key
	for _, k := range s.sorted {
		age := now.Sub(k.created)
		if !k.alive(now) || age < -p.lead || !k.end.IsZero() && exp.Add(Leeway).After(k.end) {
			continue
		}
		if age >= p.lead {
			settled = k
		} else if fresh == nil {
			fresh = k
		}
	}
	return cmp.Or(settled, fresh)
}

// rotationDue says whether the newest key is as old as it may get.
func (s *keySet) rotationDue(p schedule, now time.Time) bool {
	if p.rotate == 0 {
		return false
	}
	return !slices.ContainsFunc(s.sorted, func(k *key) bool {
		age := now.Sub(k.created)
		return k.alive(now) && age < p.rotate && age >= -p.lead
	})
}

// dead lists the keys that are of no use to anyone, not even to a node whose
// clock is an hour late.
func (s *keySet) dead(now time.Time) []*key {
	var dead []*key
	for _, k := range s.sorted {
		if !k.end.IsZero() && now.After(k.end.Add(time.Hour)) {
			dead = append(dead, k)
		}
	}
	return dead
}
