package bucket

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A sweep merges the reports that are older than mergeAfter, which their nodes do not change
// any more, into one object,
//
//	PREFIX used/merged/NAME
//
// with a word of 8 bytes for each content in the bucket (see hourBits), in big-endian
// order. A report is removed only when it is in a merged one. So if two sweeps run at once,
// they leave two merged reports, which the next one merges. If a report
// that a sweep has listed was merged before the sweep could read it, the sweep must end,
// because it does not know what was used.
const (
	mergedFolder = usedFolder + "merged/"
	mergeAfter   = 2 * day
)

// errMerged means that another sweep has merged a report that this one was about to read.
var errMerged = fmt.Errorf("%w: another node sweeps the bucket", errNotDue)

// mergeReports merges old reports, and those that earlier sweeps have merged, and removes
// them.
func (w *sweeping) mergeReports(ctx context.Context) error {
	var old []string
	for name, r := range w.read {
		if r.merged || w.began.Sub(r.modified) > mergeAfter {
			old = append(old, name)
		}
	}
	if len(old) == 0 || len(old) == 1 && w.read[old[0]].merged {
		return nil
	}
	var content []byte
	for _, word := range w.uses.sorted {
		if _, stored := w.stored.find(word &^ hourMask); stored {
			content = binary.BigEndian.AppendUint64(content, word)
		}
	}
	if err := w.pace(ctx); err != nil {
		return err
	}
	if err := w.client.putBytes(ctx, mergedFolder+strings.ToLower(rand.Text()), content); err != nil {
		return err
	}
	for _, name := range old {
		if err := w.remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// findMerged returns errMerged if another sweep has merged reports since they were listed.
func (w *sweeping) findMerged(ctx context.Context, listed []report) error {
	return w.list(ctx, mergedFolder, func(name string, _ object) error {
		if !slices.ContainsFunc(listed, func(r report) bool { return r.name == name }) {
			return errMerged
		}
		return nil
	})
}

// readMerged adds the uses in a merged report.
func (w *sweeping) readMerged(body io.Reader) error {
	words := bufio.NewReader(body)
	var word [8]byte
	for {
		if _, err := io.ReadFull(words, word[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := binary.BigEndian.Uint64(word[:])
		if err := w.uses.addWord(n&^hourMask | min(n&hourMask, hourOf(w.began))); err != nil {
			return err
		}
	}
}
