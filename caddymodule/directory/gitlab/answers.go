package gitlab

import (
	"context"
	"errors"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

const (
	// maxAnswers is how many answers of each kind are remembered.
	maxAnswers = 8192
	// pause is how long a kind of question is not asked after GitLab has failed to
	// answer one, unless GitLab says how long.
	pause = 10 * time.Second
	// maxPause limits the pause that GitLab may ask for.
	maxPause = time.Minute
	// maxQuestion limits a question, including the search for the group of a deploy
	// token.
	maxQuestion = 90 * time.Second
)

// answers are the remembered answers of an instance. Each kind of question has a
// cache of its own, since GitLab may fail to answer one kind only.
type answers struct {
	logins       map[kind]*memo.Cache[credential] // by a keyed digest
	names, users *memo.Cache[gitlabapi.User]      // by name in lower case, and by id
	tokens       *memo.Cache[gitlabapi.Token]
	jobs         *memo.Cache[gitlabapi.Job]
	groups       *memo.Cache[gitlabapi.Group] // by path, and by # with the id
	members      *memo.Cache[gitlabapi.Member]
	deployTokens *memo.Cache[gitlabapi.DeployToken]
}

func newAnswers(cacheFor, grace time.Duration) *answers {
	return &answers{
		logins: map[kind]*memo.Cache[credential]{
			accessToken: newCache[credential](cacheFor, grace),
			jobToken:    newCache[credential](cacheFor, grace),
			deployToken: newCache[credential](cacheFor, grace),
		},
		names:        newCache[gitlabapi.User](cacheFor, grace),
		users:        newCache[gitlabapi.User](cacheFor, grace),
		tokens:       newCache[gitlabapi.Token](cacheFor, grace),
		jobs:         newCache[gitlabapi.Job](cacheFor, grace),
		groups:       newCache[gitlabapi.Group](cacheFor, grace),
		members:      newCache[gitlabapi.Member](cacheFor, grace),
		deployTokens: newCache[gitlabapi.DeployToken](cacheFor, grace),
	}
}

func newCache[V any](cacheFor, grace time.Duration) *memo.Cache[V] {
	return memo.New(memo.Config[V]{
		Size: maxAnswers, Fresh: cacheFor, Stale: grace, Timeout: maxQuestion,
		Judge: func(err error) (memo.Verdict, time.Duration) { return judge(err, cacheFor) },
	})
}

// judge distinguishes a definite answer of GitLab from a failure to get one.
func judge(err error, cacheFor time.Duration) (memo.Verdict, time.Duration) {
	wait := min(pause, cacheFor)
	trouble := (*gitlabapi.Trouble)(nil)
	switch {
	case errors.As(err, &trouble):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return memo.Failed, 0
	case errors.Is(err, directory.ErrThisRequest):
		return memo.Refused, 0
	default:
		return memo.Refused, cacheFor
	}
	if !trouble.Away {
		return memo.Failed, 0
	}
	if trouble.Wait > 0 {
		wait = min(trouble.Wait, maxPause)
	}
	return memo.AllFailed, wait
}
