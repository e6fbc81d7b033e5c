package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

const (
	// maxWarming is how many images the admin API pulls at once. Others wait.
	maxWarming = 8

	// warmInterval is the least time between two lines about an image.
	warmInterval = 200 * time.Millisecond

	// warmPatience is how long the client may take to receive a line. One that is
	// suspended must not keep others from pulling images.
	warmPatience = time.Minute
)

// warmSlots has an element for each image that is being pulled.
var warmSlots = make(chan struct{}, maxWarming)

// warmRequest is the body of a POST to /dependency_proxy/cache/warm.
type warmRequest struct {
	// Image is written as for explain.
	Image string `json:"image"`

	// Platforms limits what is pulled of an index, as in linux/amd64. The default
	// is all.
	Platforms []string `json:"platforms,omitempty"`

	// Site is the name of the site. By default it is the first one that has the
	// group.
	Site *string `json:"site,omitempty"`
}

// WarmState is a line of the response to a warmRequest: the progress of the pull of an
// image. In the last line, Done is true.
type WarmState struct {
	Image string `json:"image"`
	pullthrough.Progress
	Seconds float64 `json:"seconds"` // since the start
	Done    bool    `json:"done"`
	Error   string  `json:"error,omitempty"`
}

// Warm pulls an image, see [pullthrough.Repository.Warm].
type Warm func(ctx context.Context, platforms []pullthrough.Platform, report func(pullthrough.Progress)) error

// stream is a response that is sent in lines while the request is handled.
type stream func(w http.ResponseWriter, r *http.Request)

// warm pulls an image through the cache. The pull ends if the client leaves.
func warm(r *http.Request) (int, any, error) {
	var request warmRequest
	if err := ReadRequest(r, &request); err != nil {
		return 0, nil, err
	}
	var platforms []pullthrough.Platform
	for _, text := range request.Platforms {
		platform, err := pullthrough.ParsePlatform(text)
		if err != nil {
			return 0, nil, access.RequestError(err.Error())
		}
		platforms = append(platforms, platform)
	}
	sites, err := sitesNamed(request.Site)
	if err != nil {
		return 0, nil, err
	}
	for _, s := range sites {
		var pull Warm
		if pull, err = s.Warm(r.Context(), request.Image); !errors.Is(err, fs.ErrNotExist) {
			return http.StatusOK, stream(func(w http.ResponseWriter, r *http.Request) {
				streamWarm(w, r, WarmState{Image: request.Image}, func(ctx context.Context, report func(pullthrough.Progress)) error {
					return pull(ctx, platforms, report)
				})
			}), err
		}
	}
	return 0, nil, refuse(http.StatusNotFound, "no group of a running site has '%s'; write the image as in acme/alpine:3.20", request.Image)
}

// streamWarm calls pull and sends a line about its progress at most once in warmInterval,
// and a last one when it has ended.
func streamWarm(w http.ResponseWriter, r *http.Request, state WarmState, pull func(context.Context, func(pullthrough.Progress)) error) {
	// The admin endpoint limits the time for reading a request, and takes it from the
	// time for the response, too.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	begin, last := time.Now(), time.Time{}
	send := func() {
		last = time.Now()
		state.Seconds = last.Sub(begin).Seconds()
		line, err := json.Marshal(state)
		if err != nil {
			panic(err) // numbers and strings always marshal
		}
		_ = http.NewResponseController(w).SetWriteDeadline(last.Add(warmPatience))
		_, _ = w.Write(append(line, '\n')) // an error means that the client has left, which ends the pull
		_ = http.NewResponseController(w).Flush()
	}
	send()
	var err error
	select {
	case warmSlots <- struct{}{}:
		defer func() { <-warmSlots }()
		err = pull(r.Context(), func(p pullthrough.Progress) {
			if state.Progress = p; time.Since(last) >= warmInterval {
				send()
			}
		})
	case <-r.Context().Done():
		err = context.Cause(r.Context())
	}
	if state.Done = true; err != nil {
		state.Error = err.Error()
	}
	send()
}
