package bucket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Each node writes which content it has used on a day to an object of its own,
//
//	PREFIX used/DAY/NODE
//
// with a digest on each line. So a pull costs no request to the bucket.
const (
	usedFolder = "used/"
	dayFormat  = time.DateOnly
	day        = 24 * time.Hour

	// nodeKey is the local record of the name of this node.
	nodeKey = "bucket/node"

	// maxUsed bounds the digests that a node writes for a day, some 72 MB.
	maxUsed = 1 << 20
)

// nodeName returns a random name that stays the same for a local directory.
func (s *Store) nodeName(ctx context.Context) (string, error) {
	name, err := s.FileStore.Load(ctx, nodeKey)
	if err == nil && len(name) > 0 {
		return string(name), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	text := strings.ToLower(rand.Text())
	return text, s.FileStore.Save(ctx, nodeKey, []byte(text))
}

// saveUses writes which content was used on the day of now, by the times in the local
// tier: local content, and what clients read from the bucket themselves.
func (s *Store) saveUses(ctx context.Context, now time.Time) error {
	node, err := s.nodeName(ctx)
	if err != nil {
		return err
	}
	began := now.UTC().Truncate(day)
	var lines bytes.Buffer
	n := 0
	add := func(e store.Entry) error {
		if e.Used.Before(began) || n >= maxUsed {
			return nil
		}
		n++
		lines.WriteString(e.Digest.String())
		lines.WriteByte('\n')
		return nil
	}
	err = s.FileStore.Walk(ctx, store.Paced(ctx, store.WalkStride, add))
	if err == nil {
		err = s.FileStore.List(ctx, strings.TrimSuffix(verifiedFolder, "/"), store.Paced(ctx, store.WalkStride, func(r store.Record) error {
			if d, ok := parseVerifiedKey(r.Key); ok {
				return add(store.Entry{Digest: d, Used: r.Used})
			}
			return nil
		}))
	}
	if err != nil || n == 0 {
		return err
	}
	if err := s.client.putBytes(ctx, usedFolder+began.Format(dayFormat)+"/"+node, lines.Bytes()); err != nil {
		return fmt.Errorf("write to the bucket what was used: %w", err)
	}
	return nil
}

// readUses adds to uses the end of the last day on which content was used, from the
// days that are not before a time. It removes the objects of earlier days.
func (s *Store) readUses(ctx context.Context, uses map[digest.Digest]time.Time, from time.Time) error {
	var names []string
	err := s.client.list(ctx, usedFolder, func(name string, _ object) error {
		names = append(names, name)
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		text, _, _ := strings.Cut(strings.TrimPrefix(name, usedFolder), "/")
		on, err := time.Parse(dayFormat, text)
		if err != nil {
			continue // not one of ours
		}
		if on.Add(day).Before(from) {
			if err := s.client.remove(ctx, name); err != nil {
				return err
			}
			continue
		}
		if err := s.readUsed(ctx, name, on.Add(day), uses); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read from the bucket what was used: %w", err)
		}
	}
	return nil
}

func (s *Store) readUsed(ctx context.Context, name string, end time.Time, uses map[digest.Digest]time.Time) error {
	body, _, err := s.client.get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(io.LimitReader(body, maxUsed*128))
	for lines.Scan() {
		if d := digest.Digest(lines.Text()); d.Validate() == nil && uses[d].Before(end) {
			uses[d] = end
		}
	}
	return lines.Err()
}
