package ratelimit

import (
	"bytes"
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

const (
	// scarceShare is the share of the limit, in percent, below which a budget is
	// scarce.
	scarceShare = 20

	// maxBudgetWindow and maxBudget bound what a registry may announce.
	maxBudgetWindow = 31 * 24 * time.Hour
	maxBudget       = 1 << 40

	// unknownWindow is how long a budget counts if the registry does not say.
	unknownWindow = time.Hour

	// maxSource is the length of Budget.Source in bytes.
	maxSource = 64
)

// Limit is what a registry limits when it responds with 429.
type Limit uint8

// The limits.
const (
	// Unlimited means that no limit is exceeded.
	Unlimited Limit = iota

	// Unknown is a limit that the response does not describe.
	Unknown

	// Pulls is a limit of pulls in a window of time. The response carries the
	// headers that [Budget] describes. At Docker Hub, a GET of a manifest is a pull;
	// a HEAD and a blob are not.
	Pulls

	// Abuse is a limit of all requests from an address, whatever their login.
	// Docker Hub describes it by a text in place of an error in JSON.
	Abuse
)

// String returns the name of the limit: "none", "unknown", "pull limit" or "abuse
// limit".
func (l Limit) String() string {
	return [...]string{"none", "unknown", "pull limit", "abuse limit"}[l]
}

// Message returns the text of an error: that the limit is exceeded.
func (l Limit) Message() string {
	switch l {
	case Pulls:
		return "pull limit exceeded"
	case Abuse:
		return "too many requests from this address (abuse limit)"
	}
	return "rate limit exceeded"
}

// LimitOf returns what a 429 with an error code, or "", and a body limits. The response
// to a HEAD has no body.
func LimitOf(h http.Header, code string, content []byte) Limit {
	switch {
	case h.Get("RateLimit-Limit") != "" || h.Get("RateLimit-Remaining") != "":
		return Pulls
	case code != "":
		return Unknown
	case bytes.HasPrefix(bytes.TrimSpace(content), []byte("Too Many Requests")), len(content) == 0 && header.MediaType(h) == "text/plain":
		return Abuse
	}
	return Unknown
}

// Budget is how many pulls a registry permits a login, or the address of an anonymous
// client, in a window of time. Its zero value is that of a registry that does not say.
type Budget struct {
	// Limit is the number of pulls per window, and Remaining how many of them are
	// left. They are of the headers RateLimit-Limit and RateLimit-Remaining of the
	// registry's own responses, as in "100;w=21600".
	Limit, Remaining int64

	// Window is the length of the window, or 0 if the registry does not say; it is then
	// taken for an hour.
	Window time.Duration

	// Source is what the registry counts the pulls for, of the header
	// Docker-RateLimit-Source: an address, or the identity of an account. It is at
	// most 64 bytes of printable text, or empty.
	Source string

	// Seen is when the registry said so.
	Seen time.Time
}

// isKnown reports whether the budget counts at a time: not after its window.
func (b Budget) isKnown(now time.Time) bool {
	return b.Limit > 0 && now.Before(b.Seen.Add(cmp.Or(b.Window, unknownWindow)))
}

// Scarcity returns how scarce the budget is at a time: 0 if at least 20 % of the limit
// remain, 1 if nothing remains, and in proportion between them. It is 0 if the registry
// has not announced a budget, and after its window.
func (b Budget) Scarcity(now time.Time) float64 {
	if !b.isKnown(now) {
		return 0
	}
	enough := float64(b.Limit) * scarceShare / 100
	return min(max(0, 1-float64(b.Remaining)/enough), 1)
}

// Parse returns the budget in the header of a response, and reports whether there
// is one.
func Parse(h http.Header, now time.Time) (Budget, bool) {
	limit, window, ok := parseLimit(h.Get("RateLimit-Limit"))
	if !ok || limit == 0 {
		return Budget{}, false
	}
	remaining, own, ok := parseLimit(h.Get("RateLimit-Remaining"))
	if !ok {
		return Budget{}, false
	}
	if window == 0 {
		window = own
	}
	b := Budget{Limit: limit, Remaining: min(remaining, limit), Window: window, Seen: now}
	if source := h.Get("Docker-RateLimit-Source"); len(source) <= maxSource && header.IsVisible(source) {
		b.Source = source
	}
	return b, true
}

// parseLimit parses "100;w=21600", a number and the length of a window in seconds, which
// may be missing.
func parseLimit(value string) (number int64, window time.Duration, ok bool) {
	text, parameters, _ := strings.Cut(value, ";")
	number, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || number < 0 || number > maxBudget {
		return 0, 0, false
	}
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, text, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		seconds, err := strconv.ParseInt(text, 10, 32)
		if name == "w" && err == nil && seconds > 0 {
			window = min(time.Duration(seconds)*time.Second, maxBudgetWindow)
		}
	}
	return number, window, true
}

// Meter remembers the last Budget that a registry has announced. Its zero value is ready
// for use. It is safe for concurrent use.
type Meter struct {
	mu   sync.Mutex
	last Budget
	low  bool // it is scarce
}

// Budget returns the budget, which is zero after its window.
func (m *Meter) Budget(now time.Time) Budget {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.last.isKnown(now) {
		return Budget{}
	}
	return m.last
}

// Scarcity returns how scarce the budget is. It needs the time only if it was scarce when
// the registry announced it.
func (m *Meter) Scarcity(now func() time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.low {
		return 0
	}
	return m.last.Scarcity(now())
}

// Set replaces the budget, and reports whether it has become scarce.
func (m *Meter) Set(new Budget) (becameScarce bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.low && m.last.isKnown(new.Seen)
	m.last, m.low = new, new.Scarcity(new.Seen) > 0
	return m.low && !before
}
