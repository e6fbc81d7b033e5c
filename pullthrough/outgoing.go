package pullthrough

import (
	"errors"
	"sync"
)

const (
	// largeAnswer is the size in bytes up to which an answer does not count against
	// maxAnswers. The buffers of a connection take about as much memory.
	largeAnswer = 64 << 10

	// maxAnswers limits the larger answers that are being sent, in bytes.
	maxAnswers = 64 << 20
)

var errTooManyAnswers = errors.New("too many large answers are being sent from memory")

// Outgoing limits the memory of large answers that are being sent: lists, and
// manifests that cannot be stored. Each is in memory once, however many clients
// receive it and however slowly, and all of them together take at most 64 MiB.
// Its zero value is ready for use.
type Outgoing struct {
	mu      sync.Mutex
	answers map[any]*answer
	bytes   int // of all answers
}

type answer struct {
	content []byte
	clients int // that receive it
}

// Take returns the content to send for an answer. While a large answer is sent, all
// calls with its key return the content of the first one. The caller must call done when
// it has sent the content. Take returns an error if there is no room for the answer.
func (o *Outgoing) Take(key any, content []byte) (shared []byte, done func(), err error) {
	if len(content) <= largeAnswer {
		return content, func() {}, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.answers[key]
	if a == nil {
		if o.bytes+len(content) > maxAnswers {
			return nil, nil, errTooManyAnswers
		}
		if o.answers == nil {
			o.answers = make(map[any]*answer)
		}
		a = &answer{content: content}
		o.answers[key] = a
		o.bytes += len(content)
	}
	a.clients++
	return a.content, func() { o.done(key, a) }, nil
}

func (o *Outgoing) done(key any, a *answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a.clients--; a.clients == 0 {
		delete(o.answers, key)
		o.bytes -= len(a.content)
	}
}
