package tokenissuer

import (
	"cmp"
	"slices"
	"time"
)

// keySet contains the keys that a node knows. It is immutable: readers need no
// lock, and a change replaces it.
type keySet struct {
	byKid  map[string]*key
	sorted []*key // by creation time and kid, so the same on all nodes
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

// with returns a copy of the set with and without the given keys.
func (s *keySet) with(add, remove []*key) *keySet {
	keys := slices.DeleteFunc(slices.Clone(s.sorted), func(k *key) bool {
		return slices.Contains(remove, k)
	})
	for _, k := range add {
		if old := s.byKid[k.kid]; old == nil || slices.Contains(remove, old) {
			keys = append(keys, k)
		}
	}
	return newKeySet(keys)
}

// verifier returns the key with the given kid if it verifies tokens at now, or
// nil.
func (s *keySet) verifier(kid string, now time.Time) *key {
	if k := s.byKid[kid]; k != nil && k.usable(now) {
		return k
	}
	return nil
}

// schedule determines when keys are created, sign and expire. All nodes with the
// same keys and the same settings choose the same signer.
type schedule struct {
	rotate   time.Duration // 0: never
	lead     time.Duration // from the creation of a key to its first signature
	lifetime time.Duration // longest lifetime of a token
	refresh  time.Duration // interval of listings; at most lead
}

func newSchedule(rotate, lifetime time.Duration) schedule {
	p := schedule{
		rotate:   max(rotate, 0),
		lead:     publishLead,
		lifetime: max(cmp.Or(lifetime, defaultTokenLifetime), MinLifetime),
		refresh:  refreshInterval,
	}
	if p.rotate > 0 {
		p.lead = min(p.lead, p.rotate/4)
		p.refresh = min(p.refresh, p.lead)
	}
	return p
}

// end returns the time at which a key created at created expires. Its successor
// is created after rotate and signs one lead later. The second lead is a reserve
// for a successor that is created late. One leeway is for the verification, the
// other for the difference between the nodes' clocks.
func (p schedule) end(created time.Time) time.Time {
	if p.rotate == 0 {
		return time.Time{}
	}
	return created.Add(p.rotate + 2*p.lead + p.lifetime + 2*Leeway)
}

// signer returns the key that signs a token which expires at exp, or nil if
// there is none. It chooses
//
//   - the newest key that has been published for the lead, because all nodes have
//     listed it by then. The rotation of that key may be overdue, if its
//     successor has just been published or cannot be stored;
//   - otherwise the oldest of the newer keys, because most nodes know it.
//
// A key must outlive the tokens that it signs. A key whose creation time is in
// the future does not sign: a node whose clock is far ahead must not decide for
// the others.
func (s *keySet) signer(p schedule, now, exp time.Time) *key {
	var published, recent *key
	for _, k := range s.sorted {
		age := now.Sub(k.created)
		if !k.usable(now) || age < -p.lead || !k.end.IsZero() && exp.Add(Leeway).After(k.end) {
			continue
		}
		if age >= p.lead {
			published = k
		} else if recent == nil {
			recent = k
		}
	}
	return cmp.Or(published, recent)
}

// rotationDue reports whether the newest key has reached the age of rotation.
func (s *keySet) rotationDue(p schedule, now time.Time) bool {
	if p.rotate == 0 {
		return false
	}
	return !slices.ContainsFunc(s.sorted, func(k *key) bool {
		age := now.Sub(k.created)
		return k.usable(now) && age < p.rotate && age >= -p.lead
	})
}

// expired returns the keys that expired more than an hour ago, so that even a
// node whose clock is an hour late does not need them.
func (s *keySet) expired(now time.Time) []*key {
	var expired []*key
	for _, k := range s.sorted {
		if !k.end.IsZero() && now.After(k.end.Add(time.Hour)) {
			expired = append(expired, k)
		}
	}
	return expired
}
